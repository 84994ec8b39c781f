//! Changes of members as the log has them (R34): from where there is no way back, and what came of them.

use super::*;

fn begin(rig: &mut Rig, add: Option<&str>, remove: Option<u64>) -> MemberChange {
    let step = MemberStep::Begin { above: 3, add: add.map(str::to_owned), remove };
    changed(rig.run(Command::Members(step)))
}
fn changed(reply: Reply) -> MemberChange {
    match reply {
        Reply::Change(change) => change,
        other => panic!("{other:?}"),
    }
}
fn step(rig: &mut Rig, step: MemberStep) -> Reply {
    rig.run(Command::Members(step))
}
fn no_return(id: u64) -> MemberStep {
    MemberStep::NoReturn { id, leaver: Some("m3:1".into()) }
}
fn rig(level: u32) -> Rig {
    let mut rig = Rig::new();
    assert_eq!(rig.run(Command::FeatureLevel(level)), Reply::Done);
    rig
}
fn restored(machine: &Machine) -> Machine {
    let mut bytes = Vec::new();
    machine.write_to(&mut bytes).unwrap();
    Machine::read_from(&mut bytes.as_slice()).unwrap()
}

/// Once groups get their new voters a change is completed, never given up.
#[test]
fn r34_a_change_is_not_given_up_beyond_the_point_of_no_return() {
    let mut rig = rig(OUTCOMES_LEVEL);
    let change = begin(&mut rig, Some("m4:1"), Some(3));
    assert!(!rig.machine.member_change_is_final());
    assert_eq!(changed(step(&mut rig, no_return(change.id))), change);
    assert!(rig.machine.member_change_is_final());
    assert_eq!(rig.machine.member_leaver(), Some("m3:1"));
    let Reply::Refused(why) = step(&mut rig, MemberStep::Cancel { id: change.id }) else {
        panic!("given up")
    };
    assert!(why.contains("member 4 at m4:1 replaces member 3, can only be completed"), "{why}");
    assert_eq!(rig.machine.member_change(), Some(&change));
    assert_eq!(restored(&rig.machine), rig.machine);
    assert_eq!(step(&mut rig, MemberStep::Ended { change: change.clone() }), Reply::Done);
    assert_eq!((rig.machine.member_change(), rig.machine.member_change_is_final()), (None, false));
    assert_eq!(step(&mut rig, MemberStep::Ended { change }), Reply::Done, "once more");
}

/// The end names what was carried out, also of a change that was given up, and it is not forgotten when the
/// next one begins.
#[test]
fn r34_the_end_of_a_change_names_what_was_carried_out() {
    let mut rig = rig(OUTCOMES_LEVEL);
    let joins = begin(&mut rig, Some("m4:1"), None);
    let undone = changed(step(&mut rig, MemberStep::Cancel { id: joins.id }));
    assert_eq!((undone.add.as_ref(), undone.remove), (None, Some(4)));
    assert_eq!(rig.machine.member_leaver(), Some("m4:1"));
    // Who coordinates learns that it was given up, and cannot say that the other was done.
    assert_eq!(changed(step(&mut rig, no_return(joins.id))), undone);
    assert!(matches!(step(&mut rig, MemberStep::Ended { change: joins.clone() }), Reply::Refused(_)));
    assert_eq!(step(&mut rig, MemberStep::Ended { change: undone.clone() }), Reply::Done);
    let replaces = begin(&mut rig, Some("m5:1"), Some(3));
    assert_eq!(rig.machine.member_leaver(), None);
    assert_eq!(
        rig.machine.member_change_ended(joins.id),
        Some(true),
        "given up, though another is under way"
    );
    assert_eq!(rig.machine.member_change_ended(replaces.id), None);
    step(&mut rig, MemberStep::Ended { change: replaces.clone() });
    assert_eq!(rig.machine.member_change_ended(replaces.id), Some(false));
    let ended: Vec<_> = rig.machine.ended_changes().map(|e| (e.change.clone(), e.given_up)).collect();
    assert_eq!(ended, [(undone, true), (replaces, false)]);
    let left: Vec<u64> = (1..7).filter(|id| rig.machine.has_left(*id)).collect();
    assert_eq!(left, [3, 4]);
    assert_eq!(restored(&rig.machine), rig.machine);
}

/// Two coordinators of one change may find two directories at its address, each of them empty: one is taken.
#[test]
fn r34_a_change_takes_the_first_data_directory_and_no_other() {
    let mut rig = rig(OUTCOMES_LEVEL);
    let change = begin(&mut rig, Some("m4:1"), None);
    assert_eq!(rig.machine.member_comes(), None);
    for _ in 0..2 {
        assert_eq!(changed(step(&mut rig, MemberStep::Comes { id: change.id, node: 7 })), change);
    }
    let Reply::Refused(why) = step(&mut rig, MemberStep::Comes { id: change.id, node: 8 }) else {
        panic!("two directories under one id")
    };
    assert!(why.contains("another data directory"), "{why}");
    assert_eq!(rig.machine.member_comes(), Some(7));
    assert_eq!(restored(&rig.machine), rig.machine);
    let undone = changed(step(&mut rig, MemberStep::Cancel { id: change.id }));
    assert_eq!(rig.machine.member_comes(), None);
    let late = step(&mut rig, MemberStep::Comes { id: change.id, node: 7 });
    assert!(matches!(late, Reply::Refused(_)), "nobody comes any more: {late:?}");
    step(&mut rig, MemberStep::Ended { change: undone });
    let next = begin(&mut rig, Some("m4:1"), None);
    assert_eq!(changed(step(&mut rig, MemberStep::Comes { id: next.id, node: 8 })), next);
}

/// Below its level the new part of the state stays empty and unwritten, whatever is applied: builds that do
/// not know it have the same state.
#[test]
fn r24_outcomes_of_changes_wait_for_their_level() {
    let mut rig = rig(MEMBERS_LEVEL);
    let change = begin(&mut rig, Some("m4:1"), None);
    for step in [no_return(change.id), MemberStep::Ended { change: change.clone() }] {
        let Reply::Refused(why) = rig.run(Command::Members(step)) else { panic!("too early") };
        assert!(why.contains("feature level 3"), "{why}");
    }
    step(&mut rig, MemberStep::Cancel { id: change.id });
    assert_eq!(step(&mut rig, MemberStep::End { id: change.id }), Reply::Done);
    assert_eq!(rig.machine.member_change_ended(change.id), Some(true));
    assert_eq!(rig.machine.ended_changes().count(), 0);
    assert_eq!(rig.machine.state.outcomes, Default::default());
}

/// Members come and go for ever; what is remembered of them does not grow.
#[test]
fn g6_ended_changes_are_bounded() {
    let mut rig = rig(OUTCOMES_LEVEL);
    for old in 1..=300 {
        let change = begin(&mut rig, None, Some(old));
        step(&mut rig, MemberStep::Ended { change });
    }
    assert_eq!(rig.machine.ended_changes().count(), 256);
    assert!(rig.machine.has_left(300) && !rig.machine.has_left(1));
}
