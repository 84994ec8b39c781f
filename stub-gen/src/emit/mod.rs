//! Turns an [`Interface`] into Rust. Callers' code (marker, methods) always, hosts' code (message enum,
//! dispatch, typed reference) where somebody hosts it.

mod caller;
mod host;

use proc_macro2::TokenStream;
use quote::quote;

use crate::ir::{Host, Interface, Method};

/// The code of one interface.
///
/// # Errors
/// A rule of [`Interface::check`] is broken.
pub fn emit(interface: &Interface) -> syn::Result<TokenStream> {
    interface.check()?;
    let mut out = caller::emit(interface);
    match interface.host {
        Host::Nobody => {}
        Host::Trait(_) | Host::Type(_) => out.extend(host::emit(interface)),
    }
    Ok(out)
}

/// What every generated item is allowed: nobody reads it, nobody can change it.
fn allow() -> TokenStream {
    quote!(#[allow(dead_code, missing_docs, private_bounds, private_interfaces, unreachable_pub, clippy::all, clippy::pedantic)])
}

fn docs(lines: &[String]) -> TokenStream {
    let lines = lines.iter().map(|l| format!(" {}", l.trim_start()));
    quote!(#(#[doc = #lines])*)
}

/// `player::AddGold`
fn method_type(interface: &Interface, m: &Method) -> TokenStream {
    let (module, marker) = (&interface.module, &m.marker);
    quote!(#module::#marker)
}
