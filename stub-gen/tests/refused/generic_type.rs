#![allow(unused)]
use millet_macros::grain;

struct Rank<T>(T);

#[grain(name = "realm.Rank")]
impl<T> Rank<T> {
    async fn report(&mut self) {}
}

fn main() {}
