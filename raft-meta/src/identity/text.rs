//! The identity file: lines of `name=value` under a title, with a checksum over all of them at the end.

use std::{fmt::Write as _, io, path::Path};

use millet_core::{NodeId, world::Disk};
use xxhash_rust::xxh3::xxh3_64;

use super::{FILE, FORMAT, Identity, IdentityError, Membership};
use crate::machine::Secret;

fn render(identity: &Identity) -> String {
    let mut text = format!(
        "millet data directory\nformat={FORMAT}\nnode={}\ncreated_ms={}\n",
        identity.node.0, identity.created_ms
    );
    if let Some(m) = &identity.membership {
        let secret = u128::from_be_bytes(m.secret.0);
        // Writing to a String does not fail.
        let _ = write!(text, "cluster={}\nmember={}\nsecret={secret:032x}\n", m.cluster, m.member);
        for (id, addr) in &m.founders {
            let _ = writeln!(text, "founder={id} {addr}");
        }
    }
    if identity.retired {
        text.push_str("retired=1\n");
    }
    if identity.started {
        text.push_str("started=1\n");
    }
    let sum = xxh3_64(text.as_bytes());
    let _ = writeln!(text, "checksum={sum:016x}");
    text
}

pub(super) fn write(disk: &dyn Disk, dir: &Path, identity: &Identity) -> io::Result<()> {
    let (text, new) = (render(identity), dir.join("identity.new"));
    match disk.remove(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.create(&new, text.len() as u64)?;
    file.write_at(0, text.as_bytes())?;
    file.sync_data()?;
    disk.rename(&new, &dir.join(FILE))?;
    disk.sync_dir(dir)
}

pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
    let damaged = |why: &str| IdentityError::Damaged { file: file.to_owned(), why: why.to_owned() };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("not text"))?;
    let (body, sum) = text.trim_end().rsplit_once('\n').ok_or_else(|| damaged("too short"))?;
    let sum = sum.strip_prefix("checksum=").and_then(|s| u64::from_str_radix(s, 16).ok());
    if sum != Some(xxh3_64(format!("{body}\n").as_bytes())) {
        return Err(damaged("checksum"));
    }
    let all = |name: &'static str| {
        body.lines().filter_map(move |l| l.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v))
    };
    let number = |name| all(name).next().and_then(|v| v.parse::<u64>().ok());
    let format = number("format").and_then(|f| u32::try_from(f).ok()).ok_or_else(|| damaged("no format"))?;
    if format > FORMAT {
        return Err(IdentityError::Newer { file: file.to_owned(), found: format });
    }
    let membership = match all("cluster").next() {
        None => None,
        Some(cluster) => Some(Membership {
            cluster: cluster.to_owned(),
            member: number("member").ok_or_else(|| damaged("no member id"))?,
            secret: all("secret")
                .next()
                .and_then(|s| u128::from_str_radix(s, 16).ok())
                .map(|s| Secret(s.to_be_bytes()))
                .ok_or_else(|| damaged("no secret"))?,
            founders: all("founder")
                .map(|f| f.split_once(' ').and_then(|(id, addr)| Some((id.parse().ok()?, addr.to_owned()))))
                .collect::<Option<_>>()
                .ok_or_else(|| damaged("founders"))?,
        }),
    };
    Ok(Identity {
        node: NodeId(number("node").ok_or_else(|| damaged("no node id"))?),
        created_ms: number("created_ms").ok_or_else(|| damaged("no creation time"))?,
        membership,
        retired: number("retired").is_some_and(|n| n != 0),
        started: number("started").is_some_and(|n| n != 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Membership {
        let founders = vec![(1, "a:1".into()), (2, "b:1".into())];
        Membership { cluster: "c1".into(), member: 2, secret: Secret([9; 16]), founders }
    }

    #[test]
    fn golden_text_of_an_identity() {
        let identity = Identity {
            node: NodeId(5),
            created_ms: 6,
            membership: Some(place()),
            retired: true,
            started: true,
        };
        let body = "millet data directory\nformat=1\nnode=5\ncreated_ms=6\ncluster=c1\nmember=2\nsecret=09090909090909090909090909090909\nfounder=1 a:1\nfounder=2 b:1\nretired=1\nstarted=1\n";
        assert_eq!(render(&identity), format!("{body}checksum={:016x}\n", xxh3_64(body.as_bytes())));
    }

    proptest::proptest! {
        /// The checksum is right, the lines are anything.
        #[test]
        fn any_text_is_an_identity_or_damage(lines in proptest::collection::vec("(format|node|created_ms|cluster|member|secret|founder)?=?.{0,12}", 0..8), sum: bool) {
            let mut text = lines.join("\n") + "\n";
            if sum {
                text += &format!("checksum={:016x}\n", xxh3_64(text.as_bytes()));
            }
            if let Ok(identity) = parse(Path::new("identity"), text.as_bytes()) {
                proptest::prop_assert!(parse(Path::new("identity"), render(&identity).as_bytes()).is_ok());
            }
        }
    }
}
