//! The one description of a grain interface that both fronts fill and the emitter reads, and the rules
//! that hold for every interface, whoever wrote it.

use std::collections::HashMap;

use proc_macro2::{Ident, Span, TokenStream};

/// A grain interface.
pub struct Interface {
    /// The grain type name, such as `realm.Player`.
    pub name: String,
    /// The marker type: `Player` (contract-first), `RankService` (Rust-first).
    pub marker: Ident,
    /// The module that holds one type per method: `player`.
    pub module: Ident,
    /// What `Player` or `Rank` the other generated names begin with: `PlayerRef`, `PlayerMsg`.
    pub stem: Ident,
    /// Who runs the methods.
    pub host: Host,
    /// The kind of key.
    pub keys: KeyKind,
    /// How arguments and results travel.
    pub encoding: Encoding,
    /// The methods, in order of declaration.
    pub methods: Vec<Method>,
    /// Visibility of everything generated.
    pub vis: syn::Visibility,
    /// Documentation of the interface, line by line.
    pub docs: Vec<String>,
    /// An expression of type `&'static [u8]`: the descriptor set (contract-first).
    pub descriptors: Option<TokenStream>,
    /// The root that generated code names, `::millet`.
    pub root: syn::Path,
}

/// Who runs the methods of an interface.
pub enum Host {
    /// Any grain that implements the generated trait (contract-first).
    Trait(Ident),
    /// This type, which has the methods as inherent ones (Rust-first).
    Type(Ident),
    /// Nobody here: the code is for callers only.
    Nobody,
}

/// The kind of key a grain type has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// A 64-bit unsigned integer.
    Int,
    /// Text.
    Text,
}

/// How arguments and results travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// Contract-first: protobuf messages.
    Protobuf,
    /// Rust-first: MessagePack with named fields.
    Named,
}

/// One method.
pub struct Method {
    /// As declared and on the wire: `AddGold`, `report`.
    pub name: String,
    /// The Rust function: `add_gold`.
    pub function: Ident,
    /// The type that stands for it, in the interface's module: `AddGold`.
    pub marker: Ident,
    /// Its arguments.
    pub args: Args,
    /// What it returns when it succeeds.
    pub result: syn::Type,
    /// The application's error; `None`: it cannot fail.
    pub error: Option<syn::Type>,
    /// Whether it takes `&self`.
    pub shared: bool,
    /// Whether it may be repeated after an unknown outcome.
    pub idempotent: bool,
    /// Documentation, line by line.
    pub docs: Vec<String>,
}

/// The arguments of a method.
pub enum Args {
    /// One protobuf message; `()` for `google.protobuf.Empty`.
    Message(syn::Type),
    /// Named fields, gathered in a generated struct.
    Fields(Vec<(Ident, syn::Type)>),
}

impl Interface {
    /// The rules for every interface: it has methods, no two of them share a name, a generated name or
    /// a method id, and the type name is one.
    ///
    /// # Errors
    /// The first broken rule, with what to do about it.
    pub fn check(&self) -> syn::Result<()> {
        let at = self.stem.span();
        if !is_type_name(&self.name) {
            let why = format!(
                "{:?} cannot be a grain type name; use 1 to 128 ASCII letters, digits, `_`, `.` and `-`, such as \"realm.Player\"",
                self.name
            );
            return Err(syn::Error::new(at, why));
        }
        if self.methods.is_empty() {
            return Err(syn::Error::new(
                at,
                format!("{} has no methods; add one that callers can call", self.name),
            ));
        }
        let mut ids: HashMap<u32, &Method> = HashMap::new();
        let mut markers: HashMap<String, &Method> = HashMap::new();
        for m in &self.methods {
            if let Some(other) = ids.insert(method_id(&m.name), m) {
                return Err(clash(&self.name, m, other));
            }
            if let Some(other) = markers.insert(m.marker.to_string(), m) {
                let why = format!(
                    "methods `{}` and `{}` of {} would both be called `{}` in Rust; rename one",
                    other.name, m.name, self.name, m.marker
                );
                return Err(syn::Error::new(m.function.span(), why));
            }
        }
        Ok(())
    }
}

fn clash(interface: &str, m: &Method, other: &Method) -> syn::Error {
    let why = if m.name == other.name {
        format!("{interface} has two methods `{}`; rename one", m.name)
    } else {
        format!(
            "methods `{}` and `{}` of {interface} have the same method id {:#010x}; rename one",
            other.name,
            m.name,
            method_id(&m.name)
        )
    };
    syn::Error::new(m.function.span(), why)
}

/// The id of a method name: the same as `millet_core::MethodId::of`, which the generated code asserts.
pub fn method_id(name: &str) -> u32 {
    u32::try_from(xxhash_rust::xxh3::xxh3_64(name.as_bytes()) & 0xffff_ffff).expect("32 bits are left")
}

pub(crate) fn is_type_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `AddGold`, `addGold` → `add_gold`.
pub fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let chars: Vec<char> = name.chars().collect();
    for (i, &c) in chars.iter().enumerate() {
        let starts_word = c.is_uppercase()
            && i > 0
            && chars[i - 1] != '_'
            && (!chars[i - 1].is_uppercase() || chars.get(i + 1).is_some_and(|n| n.is_lowercase()));
        if starts_word {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// `add_gold` → `AddGold`.
pub fn camel(name: &str) -> String {
    let mut up = true;
    let mut out = String::with_capacity(name.len());
    for c in name.trim_start_matches("r#").chars() {
        if c == '_' {
            up = true;
        } else if up {
            out.extend(c.to_uppercase());
            up = false;
        } else {
            out.push(c);
        }
    }
    out
}

/// An identifier, raw where the name is a keyword.
///
/// # Errors
/// The name cannot be an identifier at all.
pub fn ident(name: &str, span: Span) -> syn::Result<Ident> {
    if let Ok(mut i) = syn::parse_str::<Ident>(name) {
        i.set_span(span);
        return Ok(i);
    }
    if matches!(name, "self" | "Self" | "super" | "crate" | "_")
        || !name.starts_with(|c: char| c.is_alphabetic() || c == '_')
    {
        return Err(syn::Error::new(span, format!("`{name}` cannot be a name in Rust; rename it")));
    }
    Ok(Ident::new_raw(name, span))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_case_as_rust_wants_them() {
        for (proto, rust) in [
            ("AddGold", "add_gold"),
            ("addGold", "add_gold"),
            ("GetHTTPUrl", "get_http_url"),
            ("V2", "v2"),
            ("a_b", "a_b"),
        ] {
            assert_eq!(snake(proto), rust);
        }
        for (rust, marker) in [("add_gold", "AddGold"), ("r#type", "Type"), ("v2", "V2")] {
            assert_eq!(camel(rust), marker);
        }
    }

    /// Among some 80,000 names two share their 32 bits: such a pair in one interface is refused.
    #[test]
    fn methods_whose_ids_collide_are_refused_with_both_names() {
        let mut seen = HashMap::new();
        let (a, b) = (0u32..)
            .map(|n| format!("m{n}"))
            .find_map(|name| seen.insert(method_id(&name), name.clone()).map(|other| (other, name)))
            .expect("a collision");
        let method = |name: &str| Method {
            name: name.to_owned(),
            function: Ident::new(name, Span::call_site()),
            marker: Ident::new(&camel(name), Span::call_site()),
            args: Args::Fields(Vec::new()),
            result: syn::parse_quote!(()),
            error: None,
            shared: false,
            idempotent: false,
            docs: Vec::new(),
        };
        let interface = Interface {
            name: "T".into(),
            marker: Ident::new("T", Span::call_site()),
            module: Ident::new("t", Span::call_site()),
            stem: Ident::new("T", Span::call_site()),
            host: Host::Nobody,
            keys: KeyKind::Text,
            encoding: Encoding::Named,
            methods: vec![method(&a), method(&b)],
            vis: syn::parse_quote!(pub),
            docs: Vec::new(),
            descriptors: None,
            root: syn::parse_quote!(::millet),
        };
        let error = interface.check().expect_err("they collide").to_string();
        assert!(error.contains(&a) && error.contains(&b) && error.contains("same method id"), "{error}");
    }

    #[test]
    fn keywords_become_raw_identifiers_and_self_is_refused() {
        assert_eq!(ident("type", Span::call_site()).expect("raw").to_string(), "r#type");
        assert!(ident("self", Span::call_site()).is_err());
    }
}
