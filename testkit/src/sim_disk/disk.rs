//! The simulated disk behind the traits `Disk` and `DiskFile`.

use super::*;

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let s = self.0.lock();
        Ok(Box::new(Handle { disk: self.clone(), id: s.find(path)?, life: s.life }))
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let s = &mut *self.0.lock();
        s.change()?;
        if s.names.contains_key(path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display())));
        }
        if !s.dirs.contains(path.parent().unwrap_or(Path::new(""))) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no folder for {}", path.display())));
        }
        let full = match s.write_fault() {
            Err(e) if bytes == 0 => return Err(e),
            full => full,
        };
        let id = s.next_file;
        s.next_file += 1;
        // As on a real disk, the name is there although its space is not.
        let len = if full.is_ok() { small(bytes) } else { 0 };
        s.files.insert(id, File { now: vec![0; len], pending: vec![Change::Len(len)], ..File::default() });
        s.rename(Some((path.to_owned(), id)), None);
        full?;
        Ok(Box::new(Handle { disk: self.clone(), id, life: s.life }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let s = self.0.lock();
        Ok(s.files[&s.find(path)?].now.clone())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let s = self.0.lock();
        s.powered()?;
        if !s.dirs.contains(dir) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no folder {}", dir.display())));
        }
        let names = s.names.keys().filter(|p| p.parent() == Some(dir)).filter_map(|p| p.file_name());
        Ok(names.map(|n| n.to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        let id = s.find(from)?;
        s.rename(Some((to.to_owned(), id)), Some(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.find(path)?;
        s.rename(None, Some(path.to_owned()));
        Ok(())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.sync_fault()?;
        s.sync_names(Some(dir));
        Ok(())
    }

    fn sync_file_system(&self, _dir: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.sync_fault()?;
        s.sync_names(None);
        for file in s.files.values_mut() {
            file.sync();
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let s = &mut *self.0.lock();
        s.powered()?;
        if !s.locks.insert(path.to_owned()) {
            let why = format!("{} is locked by process {}", path.display(), std::process::id());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
        }
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned(), life: s.life }))
    }
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }
}

struct Lock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let s = &mut *self.disk.0.lock();
        if s.life == self.life {
            s.locks.remove(&self.path);
        }
    }
}

/// An open file. Dead after a cut, like the process that had it.
struct Handle {
    disk: SimDisk,
    id: u64,
    life: u64,
}

impl Handle {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let s = &mut *self.disk.0.lock();
        if s.life != self.life {
            return Err(io::Error::other("this file was opened before the power cut"));
        }
        s.powered()?;
        f(s)
    }

    fn file<'a>(&self, s: &'a mut State) -> &'a mut File {
        s.files.get_mut(&self.id).expect("files live until a cut")
    }
}

impl DiskFile for Handle {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|s| {
            s.change()?;
            let full = s.write_fault();
            // As far as there was space, as on a real disk.
            let part = if full.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
            self.file(s).change(Change::Write(small(offset), part.to_vec()));
            full
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.with(|s| {
            let file = self.file(s);
            let from = small(offset);
            let part = file.now.get(from..from + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(part);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|s| Ok(self.file(s).now.len() as u64))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(|s| {
            s.change()?;
            self.file(s).change(Change::Len(small(bytes)));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|s| {
            s.change()?;
            if self.file(s).lost {
                s.retried += 1;
            }
            if let Err(e) = s.sync_fault() {
                // As on Linux: the pages count as clean, and what they held never reaches the disk.
                let file = self.file(s);
                file.pending.clear();
                file.lost = true;
                return Err(e);
            }
            s.syncs += 1;
            self.file(s).sync();
            Ok(())
        })
    }
}
