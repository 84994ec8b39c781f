//! Memory as the kernel counts it: what this process has grown to, and what the machine has left.

use anyhow::{Context, Result};

/// Resident memory of this process, from the kernel's own count of pages. (`statm` would be cheaper, but
/// is kept per thread and lags behind.)
pub fn resident_bytes() -> Result<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")
        .context("this benchmark needs Linux's /proc/self/smaps_rollup")?;
    let line =
        rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("smaps_rollup has no Rss line")?;
    kibibytes(line)
}

/// Why so many bytes do not fit into this machine now, with an eighth of what is there left to others;
/// `None`: they do.
pub fn shortage(needed: u64) -> Result<Option<String>> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("asking the kernel for free memory")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = kibibytes(line.context("meminfo has no MemAvailable line")?)?;
    let mib = |bytes: u64| bytes >> 20;
    let fits = needed <= available - available / 8;
    Ok((!fits).then(|| format!("needs {} MiB, {} MiB are available", mib(needed), mib(available))))
}

fn kibibytes(text: &str) -> Result<u64> {
    let kib: u64 = text.trim().trim_end_matches("kB").trim().parse().context("it is not a number of kB")?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_told_with_both_numbers() {
        assert_eq!(shortage(0).unwrap(), None);
        let why = shortage(u64::MAX).unwrap().unwrap();
        assert!(why.contains("needs 17592186044415 MiB"), "{why}");
    }
}
