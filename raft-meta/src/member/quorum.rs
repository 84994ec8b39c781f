//! Whether a cluster can bear the loss of a member on purpose; pure arithmetic, in words that an
//! administrator can check.

/// Why a removal is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The change itself could not be committed, or nobody would be left.
    Impossible(String),
    /// It would work, and leave less than the cluster can bear; a typed confirmation forces it.
    Unwise(String),
}

/// Votes that make a majority.
pub(crate) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Checks the removal of `member` from one group's `voters` (id, whether it answers).
pub(crate) fn removal(group: &str, voters: &[(u64, bool)], member: u64) -> Result<(), Refusal> {
    if !voters.iter().any(|(id, _)| *id == member) {
        return Ok(());
    }
    let answering = |of: &[(u64, bool)]| of.iter().filter(|(_, answers)| *answers).count();
    let left: Vec<_> = voters.iter().copied().filter(|(id, _)| *id != member).collect();
    let (now, then) = ((voters.len(), answering(voters)), (left.len(), answering(&left)));
    let ids = |of: &[(u64, bool)], that: bool| {
        let ids: Vec<_> = of.iter().filter(|(_, a)| *a == that).map(|(id, _)| id.to_string()).collect();
        ids.join(", ")
    };
    if left.is_empty() {
        return Err(Refusal::Impossible(format!("member {member} is the only voter of group {group}")));
    }
    if then.1 < majority(then.0) {
        return Err(Refusal::Impossible(format!(
            "without member {member} group {group} has {} voters, of which {} must answer and {} do (silent: {}); bring them back or replace them first",
            then.0,
            majority(then.0),
            then.1,
            ids(&left, false)
        )));
    }
    let spare = |(voters, answering): (usize, usize)| answering.saturating_sub(majority(voters));
    if then.0 == 1 || (spare(then) == 0 && spare(now) > 0) {
        return Err(Refusal::Unwise(format!(
            "group {group} has {} voters, {} answer, {} must: it bears the loss of {}; without member {member} it has {}, {} answer, {} must: it bears the loss of {}",
            now.0,
            now.1,
            majority(now.0),
            spare(now),
            then.0,
            then.1,
            majority(then.0),
            spare(then)
        )));
    }
    Ok(())
}

/// Whether a change from `now` to `then` (ids, whether they answer) can be committed: once begun, it needs a
/// majority of both, and one that cannot be committed stops every other write too.
pub(crate) fn joint(group: &str, now: &[(u64, bool)], then: &[(u64, bool)]) -> Result<(), String> {
    for (which, voters) in [("", now), ("new ", then)] {
        let answering = voters.iter().filter(|(_, answers)| *answers).count();
        if answering < majority(voters.len()) {
            let silent: Vec<_> = voters.iter().filter(|(_, a)| !a).map(|(id, _)| id.to_string()).collect();
            return Err(format!(
                "group {group}: {answering} of its {} {which}voters answer, {} must (silent: {})",
                voters.len(),
                majority(voters.len()),
                silent.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(answers: &[bool]) -> Vec<(u64, bool)> {
        (1..).zip(answers.iter().copied()).collect()
    }

    #[test]
    fn a_removal_that_breaks_the_quorum_is_impossible_whatever_is_typed() {
        let Err(Refusal::Impossible(why)) = removal("meta", &voters(&[true, true, false]), 1) else {
            panic!("two voters, one of them silent")
        };
        assert!(why.contains("has 2 voters, of which 2 must answer and 1 do (silent: 3)"), "{why}");
        assert!(matches!(removal("meta", &voters(&[true]), 1), Err(Refusal::Impossible(_))));
    }

    #[test]
    fn a_removal_after_which_nobody_may_be_lost_needs_a_typed_confirmation() {
        let Err(Refusal::Unwise(why)) = removal("meta", &voters(&[true, true, true]), 3) else {
            panic!("two voters bear no loss")
        };
        assert!(why.contains("3 voters, 3 answer, 2 must: it bears the loss of 1"), "{why}");
        assert!(why.contains("it has 2, 2 answer, 2 must: it bears the loss of 0"), "{why}");
        assert!(
            matches!(removal("meta", &voters(&[true, true]), 2), Err(Refusal::Unwise(_))),
            "one disk left"
        );
    }

    #[test]
    fn a_removal_that_costs_nothing_is_done() {
        assert_eq!(removal("meta", &voters(&[true, true, false]), 3), Ok(()), "the dead one of three");
        assert_eq!(removal("meta", &voters(&[true; 4]), 4), Ok(()), "four bear no more than three");
        assert_eq!(removal("meta", &voters(&[true; 5]), 5), Ok(()), "four bear one");
        assert_eq!(removal("meta", &voters(&[true; 3]), 9), Ok(()), "no voter at all");
    }

    /// R34: who was heard a moment ago and does not answer now is not counted on, before and after alike.
    #[test]
    fn r34_voters_that_do_not_answer_hold_a_replacement_back_before_it_is_joint() {
        let (one, two, three, new) = ((1, true), (2, false), (3, true), (4, false));
        let why = joint("state", &[one, two, three], &[one, two, new]).expect_err("1 of 3 answer");
        assert_eq!(why, "group state: 1 of its 3 new voters answer, 2 must (silent: 2, 4)");
        assert_eq!(joint("state", &[one, two, three], &[one, three, new]), Ok(()), "the new one may be away");
        let why = joint("meta", &[one, two], &[one]).expect_err("the old ones have to agree");
        assert_eq!(why, "group meta: 1 of its 2 voters answer, 2 must (silent: 2)");
    }
}
