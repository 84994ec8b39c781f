//! `milletctl meta`: the members of the metadata store, through the admin listener of any of them.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use millet_proto::{
    backup::Reader,
    wire::{self, members_client::MembersClient},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// A member that takes longer to be connected to is passed over.
const CONNECT: Duration = Duration::from_secs(3);

pub const EXITS: &str = "Exit codes:
  0  done
  1  refused, and why; nothing was changed
  2  nothing ran: no member reached, or wrong arguments
  3  not finished, or the outcome is unknown: give the same command again, it goes on";

/// The members of the metadata store.
#[derive(Args)]
#[command(after_help = EXITS)]
pub struct Meta {
    /// Admin listeners of one or more members, separated by commas; the first that answers is asked.
    #[arg(
        long,
        global = true,
        env = "MILLET_ADMIN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7402"
    )]
    pub admin: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Who is a member, how far each one is, what is under way.
    Status,
    /// Brings a fresh member in: it copies everything, then votes in every group.
    Add {
        /// Its peer address, as it calls itself; it runs with an empty data directory.
        #[arg(value_name = "HOST:PORT")]
        addr: String,
    },
    /// Puts a fresh member in the place of a lost one, in every group.
    Replace {
        /// The lost member's id.
        member: u64,
        /// The fresh one's peer address; it runs with an empty data directory.
        #[arg(value_name = "HOST:PORT")]
        addr: String,
    },
    /// Takes a member out of every group. Its data directory never takes part again.
    Remove {
        /// Its id.
        member: u64,
        /// The cluster's name: does it even if no loss could be borne afterwards.
        #[arg(long, value_name = "CLUSTER", default_value = "")]
        confirm: String,
    },
    /// Gives up a change that cannot be finished: its new member leaves again. Refused once any group has its
    /// new voters: then it can only be completed.
    Cancel {
        /// Only this change, as the status shows it; else whichever is under way.
        #[arg(default_value_t = 0)]
        change: u64,
    },
    /// Hands leadership over.
    Transfer {
        /// Only this group: meta or state.
        #[arg(long, value_parser = group)]
        group: Option<u32>,
        /// Only what this member leads.
        #[arg(long, value_name = "ID", default_value_t = 0)]
        from: u64,
        /// To this member; else to the one that is furthest.
        #[arg(long, value_name = "ID", default_value_t = 0)]
        to: u64,
        /// Each group to a member that leads no other.
        #[arg(long, conflicts_with = "to")]
        spread: bool,
    },
    /// Writes everything the cluster holds to a file, while it runs, and checks the file.
    Backup {
        /// The file; it may not exist.
        file: PathBuf,
    },
}

fn group(text: &str) -> Result<u32, String> {
    match text {
        "meta" => Ok(0),
        "state" => Ok(1),
        _ => Err("groups are meta and state".into()),
    }
}

/// What went wrong: exit code, what happened, what to do next.
pub struct Trouble(pub u8, pub String, pub String);

impl Trouble {
    fn new(code: u8, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self(code, what.into(), next.into())
    }
}

fn trouble(status: &Status) -> Trouble {
    let what = status.message();
    match status.code() {
        Code::Unimplemented => Trouble::new(
            2,
            "this address serves no members",
            "name the admin listener of a metadata member (node.admin_listen)",
        ),
        Code::FailedPrecondition | Code::InvalidArgument | Code::Aborted => {
            Trouble::new(1, what, "see `milletctl meta status`")
        }
        _ => Trouble::new(3, what, "give the same command again: it goes on where it was"),
    }
}

async fn connect(addresses: &str) -> Result<MembersClient<Channel>, Trouble> {
    const NEXT: &str =
        "name admin listeners of metadata members (node.admin_listen) with --admin or MILLET_ADMIN";
    let mut tried = Vec::new();
    for addr in addresses.split(',').map(str::trim) {
        if addr.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            return Err(Trouble::new(2, format!("{addr:?} is not host:port"), NEXT));
        }
        let Ok(endpoint) = Endpoint::from_shared(format!("http://{addr}")) else {
            return Err(Trouble::new(2, format!("{addr:?} is not host:port"), NEXT));
        };
        match endpoint.tcp_nodelay(true).connect_timeout(CONNECT).connect().await {
            Ok(channel) => return Ok(MembersClient::new(channel)),
            Err(e) => tried.push(format!("{addr}: {}", innermost(&e))),
        }
    }
    Err(Trouble::new(2, format!("no member can be reached ({})", tried.join("; ")), NEXT))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Runs a command; what is printed on success.
pub async fn run(meta: Meta) -> Result<String, Trouble> {
    let mut client = connect(&meta.admin).await?;
    let cluster = String::new();
    let changed = match meta.command {
        Command::Status => {
            let status = client.status(wire::MembersRequest { cluster }).await.map_err(|s| trouble(&s))?;
            return Ok(table(&status.into_inner()));
        }
        Command::Transfer { group, from, to, spread } => {
            let ask = wire::TransferLeadershipRequest { cluster, group, from, to, spread };
            let led = client.transfer(ask).await.map_err(|s| trouble(&s))?.into_inner();
            let line = |l: &wire::GroupLeader| format!("{} is led by member {}\n", name(l.group), l.leader);
            return Ok(led.leaders.iter().map(line).collect());
        }
        Command::Backup { file } => return backup(&mut client, &file).await,
        Command::Add { addr } => client.add(wire::AddMemberRequest { cluster, addr, limit_ms: 0 }).await,
        Command::Replace { member, addr } => {
            client.replace(wire::ReplaceMemberRequest { cluster, member, addr, limit_ms: 0 }).await
        }
        Command::Remove { member, confirm } => {
            client.remove(wire::RemoveMemberRequest { cluster, member, confirm, limit_ms: 0 }).await
        }
        Command::Cancel { change } => {
            client.cancel(wire::CancelChangeRequest { cluster, limit_ms: 0, change }).await
        }
    };
    let changed = changed.map_err(|s| trouble(&s))?.into_inner();
    let text = format!("member {}: {}", changed.member, changed.text);
    match changed.done {
        true => Ok(format!("{text}\n")),
        false => Err(Trouble::new(3, text, "see `milletctl meta status`, or give the same command again")),
    }
}

fn name(group: u32) -> String {
    match group {
        0 => "meta".into(),
        1 => "state".into(),
        other => format!("group {other}"),
    }
}

fn table(status: &wire::MembersStatus) -> String {
    let mut text = format!("cluster {}, as member {} sees it\n", status.cluster, status.member);
    for g in &status.groups {
        let leader =
            if g.leader == 0 { "no leader answers".into() } else { format!("led by member {}", g.leader) };
        let joint = if g.joint { ", its voters are changing" } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}: {leader}, term {}, entry {}{joint}", name(g.group), g.term, g.last_log);
        for n in &g.nodes {
            let role = match (n.voter, n.leaving) {
                (true, _) => "voter",
                (false, true) => "leaving",
                (false, false) => "learner",
            };
            let answers = if n.answers { "answers" } else { "silent" };
            let _ = writeln!(text, "  {:>4}  {:<24} {role:<8} {answers:<8} at {}", n.id, n.addr, n.matched);
        }
    }
    if let Some(c) = &status.change {
        let what = match (c.add, c.remove) {
            (0, old) => format!("member {old} leaves"),
            (new, 0) => format!("member {new} at {} joins", c.addr),
            (new, old) => format!("member {new} at {} replaces member {old}", c.addr),
        };
        let stage = if status.stage.is_empty() { "just begun" } else { &status.stage };
        let _ = writeln!(text, "under way: {what}: {stage} (change {})", c.id);
    }
    text
}

async fn backup(client: &mut MembersClient<Channel>, file: &Path) -> Result<String, Trouble> {
    let disk = |e: io::Error| {
        Trouble::new(
            2,
            format!("{}: {e}", file.display()),
            "name a file that does not exist, in a folder with room",
        )
    };
    if file.exists() {
        return Err(disk(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let part = PathBuf::from(format!("{}.part", file.display()));
    let mut out = File::create(&part).map_err(disk)?;
    let ask = wire::BackupRequest { cluster: String::new() };
    let mut pieces = client.backup(ask).await.map_err(|s| trouble(&s))?.into_inner();
    while let Some(piece) = pieces.message().await.map_err(|s| trouble(&s))? {
        out.write_all(&piece.data).map_err(disk)?;
    }
    out.sync_all().map_err(disk)?;
    let summary = check(&part)
        .map_err(|e| Trouble::new(3, format!("{}: {e}", part.display()), "take the backup again"))?;
    std::fs::rename(&part, file).map_err(disk)?;
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk)?;
    Ok(format!("{}: {summary}\n", file.display()))
}

/// Reads the file back: what the disk has is what counts.
fn check(file: &Path) -> io::Result<String> {
    let mut backup = Reader::new(io::BufReader::new(File::open(file)?))?;
    let mut text = format!("cluster {}", backup.header().cluster);
    while let Some(section) = backup.next_section()? {
        let bytes = io::copy(&mut backup, &mut io::sink())?;
        // Writing to a String does not fail.
        let _ = write!(text, ", {} up to entry {} in {bytes} bytes", section.name, section.index);
    }
    let _ = write!(text, "; {} bytes, checked", backup.offset());
    Ok(text)
}
