//! A network namespace per node, joined to the driver's by a veth pair. Every other node has an address
//! of its own on the driver's end, so that a packet filter in the namespace can tell links apart.

use std::{io::Write, net::Ipv4Addr, process::Stdio};

use anyhow::{Context, Result, ensure};

use super::tool;

/// Where `ip netns` keeps the names.
pub const NAMES: &str = "/run/netns";

/// The node's own address.
pub fn own(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, byte(node), 2)
}

/// The address on the driver's end of the node's pair that stands for another node.
pub fn stand_in(node: usize, other: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, byte(node), 100 + byte(other))
}

fn byte(n: usize) -> u8 {
    u8::try_from(n).expect("a cluster of a few nodes")
}

/// The namespace's name.
pub fn name(node: usize) -> String {
    format!("millet{node}")
}

/// Makes the namespaces of `count` nodes, each with stand-ins for all of them.
pub fn make(count: usize) -> Result<()> {
    for node in 0..count {
        let (ns, out, inn) = (name(node), format!("mt{node}"), format!("mn{node}"));
        tool("ip", &["netns", "add", &ns])?;
        tool("ip", &["link", "add", &out, "type", "veth", "peer", "name", &inn, "netns", &ns])?;
        for other in 0..=count {
            tool("ip", &["addr", "add", &format!("{}/24", stand_in(node, other)), "dev", &out])?;
        }
        tool("ip", &["link", "set", &out, "up"])?;
        tool("ip", &["-n", &ns, "addr", "add", &format!("{}/24", own(node)), "dev", &inn])?;
        tool("ip", &["-n", &ns, "link", "set", &inn, "up"])?;
        tool("ip", &["-n", &ns, "link", "set", "lo", "up"])?;
    }
    Ok(())
}

/// What a filter does with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing comes through, nobody is told.
    Drop,
    /// The sender gets a RST.
    Reset,
}

/// Filters a node's packets to (and, when dropping, from) these others until [`open`].
pub fn filter(node: usize, others: &[usize], verdict: Verdict) -> Result<()> {
    let addresses: Vec<_> = others.iter().map(|o| stand_in(node, *o).to_string()).collect();
    let set = addresses.join(", ");
    let (word, way_in) = match verdict {
        Verdict::Drop => ("counter drop", format!("ip saddr {{ {set} }} counter drop")),
        Verdict::Reset => ("counter reject with tcp reset", String::new()),
    };
    nft(
        node,
        &format!(
            "table ip millet {{\n chain out {{ type filter hook output priority 0; \
             ip daddr {{ {set} }} ip protocol tcp {word}\n }}\n \
             chain in {{ type filter hook input priority 0; {way_in}\n }}\n}}\n"
        ),
    )
}

/// Ends the filter of a node, and says how many packets it met.
pub fn open(node: usize) -> Result<u64> {
    let out = std::process::Command::new("nsenter")
        .args([&format!("--net={NAMES}/{}", name(node)), "nft", "list", "table", "ip", "millet"])
        .output()
        .context("running nft")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    nft(node, "delete table ip millet\n")?;
    Ok(packets(&text))
}

/// The sum of the counters in a listing.
fn packets(listing: &str) -> u64 {
    let mut words = listing.split_whitespace();
    let mut sum = 0;
    while let Some(word) = words.next() {
        if word == "packets" {
            sum += words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

fn nft(node: usize, rules: &str) -> Result<()> {
    let mut child = std::process::Command::new("nsenter")
        .args([&format!("--net={NAMES}/{}", name(node)), "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running nft")?;
    let mut input = child.stdin.take().context("its input is piped")?;
    input.write_all(rules.as_bytes())?;
    drop(input);
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "nft: {}\n{rules}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_of_every_counter_in_a_listing_are_added() {
        let listing = "chain out { ip daddr { 10.77.1.100 } counter packets 12 bytes 900 drop }\n\
                       chain in { counter packets 30 bytes 1 drop }";
        assert_eq!(packets(listing), 42);
    }
}
