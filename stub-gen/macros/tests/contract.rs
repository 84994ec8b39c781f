//! The golden contract-first code compiles, and does what the contract between generated code and the
//! runtime asks: round trips, marks, boxing, unknown methods.

/// As a user's crate has it.
pub mod arena {
    include!("../../tests/golden/arena.rs");
}

use arena::{Duel, DuelGrain, DuelMsg, DuelRef, Report, StrikeRequest, duel, strike_request::Aim};
use millet::rt::{
    CallError, Create, Ctx, ErrorKind, Grain, Hosted, HostedMethod, Method, MethodId, Refusal, Reply,
    Service, tokio,
};

/// A user's grain: `async fn` in the impl of the generated trait.
#[allow(dead_code, reason = "what is tested is that it compiles; hosting one is the runtime's tests'")]
struct Ring {
    total: u64,
}
impl Grain for Ring {
    type Service = Duel;
    fn create(_: &mut Create<'_, Self>) -> Self {
        Ring { total: 0 }
    }
}
impl DuelGrain for Ring {
    async fn strike(&mut self, _: &Ctx<Self>, req: StrikeRequest) -> Result<Report, Refusal> {
        let force = u64::try_from(req.force).map_err(|_| Refusal::invalid("force: negative"))?;
        self.total += force;
        Ok(Report { text: String::new(), total: self.total })
    }
    async fn watch(&self, _: &Ctx<Self>, (): ()) -> Result<Report, Refusal> {
        Ok(Report { text: "seen".into(), total: self.total })
    }
    async fn r#type(&mut self, _: &Ctx<Self>, _: Report) -> Result<(), Refusal> {
        Err(Refusal::failed_precondition("closed"))
    }
}

fn strike() -> StrikeRequest {
    StrikeRequest {
        force: -7,
        seal: vec![0, 255].into(),
        aim: Some(Aim::At("heart".into())),
        runes: [("ur".to_owned(), 3)].into(),
        stance: arena::Stance::Low.into(),
        path: vec![arena::strike_request::Point { x: -1, y: 2 }],
    }
}

#[test]
fn a_service_describes_itself() {
    assert_eq!(Duel::NAME, "arena.Duel");
    let marks: Vec<_> = Duel::METHODS.iter().map(|m| (m.name, m.shared, m.idempotent)).collect();
    assert_eq!(marks, [("Strike", false, false), ("Watch", true, true), ("Type", false, true)]);
    assert!(Duel::DESCRIPTORS.is_some_and(|d| !d.is_empty()));
}

#[test]
fn arguments_results_and_refusals_survive_the_wire() {
    let args = strike();
    let bytes = duel::Strike::encode_args(&args).expect("small");
    assert_eq!(duel::Strike::decode_args(bytes), Ok(args));
    let report = Report { text: "hit".into(), total: 9 };
    let outcome = duel::Strike::encode_result(Ok(report.clone()));
    assert_eq!(duel::Strike::decode_result(outcome), Ok(report));
    let refusal = Refusal { code: 9, message: "no".into(), details: vec![1] };
    let outcome = duel::Strike::encode_result(Err(refusal.clone()));
    assert_eq!(duel::Strike::decode_result(outcome), Err(CallError::App(refusal)));
}

#[test]
fn malformed_arguments_name_the_method_and_the_field() {
    // Field 2 (`seal`) announces 5 bytes and has 1.
    let error = duel::Strike::decode_args(vec![0x12, 5, 1].into()).expect_err("cut short").to_string();
    assert!(error.contains("arena.Duel.Strike") && error.contains("seal"), "{error}");
}

#[tokio::test]
async fn a_wire_message_carries_its_reply() {
    let bytes = duel::Strike::encode_args(&strike()).expect("small");
    let (to, answer) = tokio::sync::oneshot::channel();
    let Ok(msg) = Duel::decode(MethodId::of("Strike"), bytes, to) else { panic!("a good message") };
    assert_eq!(Duel::info(&msg).name, "Strike");
    let Ok((args, reply)) = duel::Strike::from_msg(msg) else { panic!("it is a strike") };
    assert_eq!(args, strike());
    reply.send(Ok(Report { text: String::new(), total: 1 }));
    let outcome = answer.await.expect("answered");
    assert_eq!(duel::Strike::decode_result(outcome).map(|r| r.total), Ok(1));
}

#[tokio::test]
async fn an_unknown_method_gives_the_reply_back_and_lists_the_known_ones() {
    let (to, answer) = tokio::sync::oneshot::channel();
    let Err((error, reply)) = Duel::decode(MethodId(1), Default::default(), to) else {
        panic!("no such method")
    };
    assert!(error.to_string().contains("known: Strike, Watch, Type"), "{error}");
    assert!(matches!(error, ErrorKind::NoSuchMethod { .. }));
    drop(reply);
    assert!(answer.await.is_err());
}

#[tokio::test]
async fn a_rejected_message_answers_its_caller() {
    let (to, answer) = tokio::sync::oneshot::channel();
    let msg = duel::Watch::into_msg((), Reply::local(to));
    Duel::reject(msg, ErrorKind::Fenced.into());
    assert_eq!(answer.await.expect("answered"), Err(CallError::Platform(ErrorKind::Fenced.into())));
}

/// A message of another method is handed back, not lost.
#[test]
fn from_msg_hands_back_what_is_not_its_own() {
    let msg = duel::Watch::into_msg((), Reply::nobody());
    assert!(matches!(duel::Strike::from_msg(msg), Err(DuelMsg::Watch(..))));
}

/// `StrikeRequest` is larger than 128 bytes inline: its variant is a pointer and a reply.
#[test]
fn large_arguments_are_boxed_in_the_message() {
    assert!(size_of::<StrikeRequest>() > millet::rt::SLOT_BYTES);
    assert!(size_of::<DuelMsg>() <= 64, "{}", size_of::<DuelMsg>());
}

#[test]
fn a_reference_is_typed_and_cheap_to_clone() {
    fn wants<R: From<millet::rt::GrainRef<Duel>> + Clone + Send + Sync>() {}
    wants::<DuelRef>();
}
