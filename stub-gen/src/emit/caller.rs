//! What a caller needs: the marker type, and per method a type with its arguments, result and codec.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;

use super::{allow, docs, method_type};
use crate::ir::{Args, Encoding, Interface, KeyKind, Method, method_id};

pub(super) fn emit(i: &Interface) -> TokenStream {
    let (allow, service, module) = (allow(), service(i), module(i));
    let methods = i.methods.iter().map(|m| method(i, m));
    quote! {
        #service
        #module
        #allow
        const _: () = { #(#methods)* };
    }
}

fn service(i: &Interface) -> TokenStream {
    let (root, vis, marker, name, allow) = (&i.root, &i.vis, &i.marker, &i.name, allow());
    let keys = match i.keys {
        KeyKind::Int => quote!(Int),
        KeyKind::Text => quote!(Text),
    };
    let infos = i.methods.iter().map(|m| method_type(i, m));
    let descriptors = i.descriptors.as_ref().map(|bytes| {
        quote!(const DESCRIPTORS: ::core::option::Option<&'static [u8]> = ::core::option::Option::Some(#bytes);)
    });
    let lines =
        if i.docs.is_empty() { vec![format!("The grain interface `{name}`.")] } else { i.docs.clone() };
    let (docs, arguments) = (docs(&lines), arguments(i));
    quote! {
        #docs
        #allow
        #[derive(Clone, Copy, Debug)]
        #vis struct #marker;
        #allow
        impl #root::rt::Service for #marker {
            const NAME: &'static str = #name;
            const KEYS: #root::rt::KeyKind = #root::rt::KeyKind::#keys;
            const METHODS: &'static [#root::rt::MethodInfo] = &[#(<#infos as #root::rt::Method>::INFO),*];
            #descriptors
            #arguments
        }
    }
}

/// The argument names of every method: what a caller by name may send.
fn arguments(i: &Interface) -> Option<TokenStream> {
    if i.encoding == Encoding::Protobuf {
        return None;
    }
    let names = i.methods.iter().map(|m| {
        let fields = match &m.args {
            Args::Message(_) => &[][..],
            Args::Fields(fields) => fields,
        };
        let names = fields.iter().map(|(n, _)| n.to_string().trim_start_matches("r#").to_owned());
        quote!(&[#(#names),*])
    });
    Some(quote!(const ARGUMENTS: &'static [&'static [&'static str]] = &[#(#names),*];))
}

/// One type per method, and for Rust-first interfaces the struct of its arguments.
fn module(i: &Interface) -> TokenStream {
    let (vis, module, name) = (&i.vis, &i.module, &i.name);
    let items = i.methods.iter().map(|m| {
        let marker = &m.marker;
        let line = format!(" The method `{}.{}`.", i.name, m.name);
        quote! {
            #[doc = #line]
            #[derive(Clone, Copy, Debug)]
            #vis struct #marker;
        }
    });
    let structs = i.methods.iter().filter_map(|m| match &m.args {
        Args::Message(_) => None,
        Args::Fields(fields) => Some(args_struct(i, m, fields)),
    });
    let line = format!(" The methods of `{name}` as types.");
    let allow = allow();
    quote! {
        #[doc = #line]
        #allow
        #vis mod #module {
            #[allow(unused_imports)]
            use super::*;
            #(#items)*
            #(#structs)*
        }
    }
}

fn args_name(m: &Method) -> syn::Ident {
    format_ident!("{}Args", m.marker)
}

fn args_struct(i: &Interface, m: &Method, fields: &[(syn::Ident, syn::Type)]) -> TokenStream {
    let (root, vis, name) = (&i.root, &i.vis, args_name(m));
    let line = format!(" The arguments of `{}.{}`.", i.name, m.name);
    let serde = format!("{}::rt::serde", quote!(#root).to_string().replace(' ', ""));
    let (names, types) = split(fields);
    quote! {
        #[doc = #line]
        #[derive(#root::rt::serde::Serialize)]
        #[serde(crate = #serde)]
        #vis struct #name { #(#vis #names: #types),* }
    }
}

fn split(fields: &[(syn::Ident, syn::Type)]) -> (Vec<&syn::Ident>, Vec<&syn::Type>) {
    fields.iter().map(|(n, t)| (n, t)).unzip()
}

fn method(i: &Interface, m: &Method) -> TokenStream {
    let (root, marker, ty) = (&i.root, &i.marker, method_type(i, m));
    let (name, shared, idempotent) = (&m.name, m.shared, m.idempotent || m.shared);
    let id = method_id(name);
    let (args, result) = (args_type(i, m), &m.result);
    let error = error_type(m);
    let codec = codec(i, m);
    quote! {
        impl #root::rt::Method for #ty {
            type Service = #marker;
            type Args = #args;
            type Res = #result;
            type Error = #error;
            const INFO: #root::rt::MethodInfo = #root::rt::MethodInfo {
                name: #name,
                id: #root::rt::MethodId::of(#name),
                shared: #shared,
                idempotent: #idempotent,
            };
            #codec
        }
        assert!(<#ty as #root::rt::Method>::INFO.id.0 == #id, "the method id of the generator and of the platform differ");
    }
}

pub(super) fn args_type(i: &Interface, m: &Method) -> TokenStream {
    match &m.args {
        Args::Message(ty) => quote!(#ty),
        Args::Fields(_) => {
            let (module, name) = (&i.module, args_name(m));
            quote!(#module::#name)
        }
    }
}

pub(super) fn error_type(m: &Method) -> TokenStream {
    m.error.as_ref().map_or_else(|| quote!(::core::convert::Infallible), |e| quote!(#e))
}

/// The four functions of `Method`.
fn codec(i: &Interface, m: &Method) -> TokenStream {
    let root = &i.root;
    let place = format!("{}.{}", i.name, m.name);
    let (encode_args, decode_args, encode_result, decode_result) = match (i.encoding, &m.error) {
        (Encoding::Protobuf, _) => (
            quote!(#root::rt::codec::encode_message(args, #place)),
            quote!(#root::rt::codec::decode_message(args, #place)),
            quote!(#root::rt::codec::encode_message_result(result, #place)),
            quote!(#root::rt::codec::decode_message_result(outcome, #place)),
        ),
        (Encoding::Named, error) => {
            let span = m.result.span();
            let (encode, decode) = match error {
                Some(_) => (quote!(encode_named_result), quote!(decode_named_result)),
                None => (quote!(encode_named_value), quote!(decode_named_value)),
            };
            (
                quote!(#root::rt::codec::encode_named(args, #place)),
                decode_fields(i, m, &place),
                quote_spanned!(span=> #root::rt::codec::#encode(result, #place)),
                quote_spanned!(span=> #root::rt::codec::#decode(outcome, #place)),
            )
        }
    };
    quote! {
        fn encode_args(args: &Self::Args) -> ::core::result::Result<#root::rt::Bytes, #root::rt::ErrorKind> {
            #encode_args
        }
        fn decode_args(args: #root::rt::Bytes) -> ::core::result::Result<Self::Args, #root::rt::ErrorKind> {
            #decode_args
        }
        fn encode_result(result: ::core::result::Result<Self::Res, Self::Error>) -> #root::rt::Outcome {
            #encode_result
        }
        fn decode_result(outcome: #root::rt::Outcome) -> ::core::result::Result<Self::Res, #root::rt::CallError<Self::Error>> {
            #decode_result
        }
    }
}

/// Reads a named-field map: unknown fields are passed over, a missing field takes its type's default or,
/// where the type has none, is an error that names it. So fields may be added in a rolling upgrade.
fn decode_fields(i: &Interface, m: &Method, place: &str) -> TokenStream {
    let Args::Fields(fields) = &m.args else { return quote!() };
    let (root, args) = (&i.root, args_type(i, m));
    let serde = format!("{}::rt::serde", quote!(#root).to_string().replace(' ', ""));
    let (names, types) = split(fields);
    let texts = names.iter().map(|n| n.to_string().trim_start_matches("r#").to_owned());
    let read = fields.iter().zip(texts).map(|((name, ty), text)| {
        let missing = quote_spanned!(ty.span()=> (&#root::rt::codec::Missing::<#ty>::new(#place)).missing(#text)?);
        quote!(#name: match wire.#name { ::core::option::Option::Some(v) => v, ::core::option::Option::None => #missing })
    });
    quote! {
        #[allow(unused_imports)]
        use #root::rt::codec::{MissingDefault as _, MissingRequired as _};
        #[derive(#root::rt::serde::Deserialize)]
        #[serde(crate = #serde)]
        struct Wire { #(#names: ::core::option::Option<#types>),* }
        let wire: Wire = #root::rt::codec::decode_named(&args, #place)?;
        let _ = &wire;
        ::core::result::Result::Ok(#args { #(#read),* })
    }
}
