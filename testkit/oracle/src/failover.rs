//! How long after a fault the grains that it hit answered again.

use crate::{
    checks::session_of,
    history::{Fault, Micros},
    run::{Op, Run},
    spread::Spread,
};

/// From the fault to the first answer, per grain that was last served by the session that was hit and
/// was asked again within one TTL. An answer that session gave to a call of before does not count.
pub(crate) fn failovers(run: &Run) -> Spread {
    let mut spread = Spread::default();
    let measured = |fault: &&Fault| {
        let kinds = &run.header.limits.failover_kinds;
        let is = |start| fault.kind.starts_with(start);
        fault.took_effect && (is("kill") || is("crash") || kinds.contains(&fault.kind))
    };
    let faults: Vec<(&Fault, u64)> =
        run.faults.iter().filter(measured).filter_map(|fault| Some((fault, fault.session?))).collect();
    if faults.is_empty() {
        return spread;
    }
    for (_, ops) in run.by_grain(|_| true) {
        let mut answered: Vec<(Micros, &Op)> = ops.iter().filter_map(|op| Some((op.ok()?.0, *op))).collect();
        answered.sort_by_key(|(at, _)| *at);
        for (fault, session) in &faults {
            let start = fault.start;
            let split = answered.partition_point(|(at, _)| *at < start);
            let served = answered[..split].last().and_then(|(_, op)| session_of(op));
            let until = start + run.header.ttl_us;
            let is_asked = |op: &&&Op| op.invoked <= until && op.ended.is_none_or(|at| at >= start);
            if served != Some(*session) || !ops.iter().any(|op| is_asked(&op)) {
                continue;
            }
            let again = answered[split..]
                .iter()
                .find(|(_, op)| session_of(op) != Some(*session) || op.invoked >= start);
            if let Some((at, _)) = again {
                spread.add((at - start).div_ceil(1000));
            }
        }
    }
    spread
}
