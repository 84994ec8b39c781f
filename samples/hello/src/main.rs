//! The grain of the README, on a node of its own that keeps nothing when it stops.
//! `cargo run -p hello` runs it; its test shows that the grain counts and that names are apart.

use millet::prelude::*;

/// Greets whoever calls, and remembers how often.
pub struct Greeter {
    count: Persistent<u64>,
}

impl Grain for Greeter {
    type Service = GreeterService;
    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { count: c.state("count") }
    }
    millet::states!(count);
}

#[millet::grain(name = "hello.Greeter", key = text)]
impl Greeter {
    /// One turn at a time; the new count is saved before the answer leaves.
    async fn hello(&mut self, ctx: &Ctx<Self>, who: String) -> String {
        *self.count += 1;
        format!("{} greets {who}, caller number {}", ctx.key(), *self.count)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let node = Node::builder().in_memory().grain::<Greeter>().start().await?;
    for who in ["Ada", "Grace"] {
        println!("{}", node.get::<GreeterService>(Key::text("porter")?).hello(who.to_owned()).await?);
    }
    node.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_greeter_counts_its_own_callers_only() {
        let node = Node::builder().in_memory().grain::<Greeter>().start().await.unwrap();
        let greeter = |key| node.get::<GreeterService>(Key::text(key).unwrap());
        assert_eq!(
            greeter("porter").hello("Ada".into()).await.unwrap(),
            "porter greets Ada, caller number 1"
        );
        assert_eq!(
            greeter("porter").hello("Grace".into()).await.unwrap(),
            "porter greets Grace, caller number 2"
        );
        assert_eq!(
            greeter("butler").hello("Ada".into()).await.unwrap(),
            "butler greets Ada, caller number 1"
        );
        node.shutdown().await;
    }
}
