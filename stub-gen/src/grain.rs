//! The Rust-first front: `#[grain(name = "realm.Rank", key = text)] impl Rank { … }`.
//!
//! Every function of the block is a method that callers can call; helpers belong into a plain `impl`.
//! The block itself stays as it was written. For a struct `Rank` the names `RankService` (the marker for
//! `type Service`), `RankRef`, `RankMsg` and the module `rank` are generated beside it.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens as _, format_ident, quote};
use syn::{
    Error, FnArg, Ident, ImplItem, ItemImpl, LitStr, Pat, ReturnType, Token, Type, parse::Parse,
    parse::ParseStream, spanned::Spanned as _,
};

use crate::ir::{self, Args, Encoding, Host, Interface, KeyKind, Method};

const HOW: &str = "write #[grain(name = \"realm.Rank\", key = text)], with key = int or key = text";

/// Expands the attribute; errors become compiler errors beside the untouched block, so that they are
/// the only ones.
pub fn expand(attribute: TokenStream, item: TokenStream) -> TokenStream {
    match try_expand(attribute, item.clone()) {
        Ok(tokens) => tokens,
        Err(e) => {
            let e = e.into_compile_error();
            match syn::parse2::<ItemImpl>(item) {
                Ok(mut block) => {
                    strip(&mut block);
                    quote!(#block #e)
                }
                Err(_) => e,
            }
        }
    }
}

/// As [`expand`], with the error.
///
/// # Errors
/// The definition breaks a rule; the message names the fix.
pub fn try_expand(attribute: TokenStream, item: TokenStream) -> syn::Result<TokenStream> {
    let options: Options = syn::parse2(attribute)?;
    let mut block: ItemImpl = syn::parse2(item).map_err(|e| {
        Error::new(e.span(), "#[grain] goes on the `impl Type { … }` block that holds the grain's methods")
    })?;
    let interface = read(options, &block)?;
    let code = crate::emit::emit(&interface)?;
    strip(&mut block);
    Ok(quote!(#block #code))
}

/// Takes our own marks off the methods.
fn strip(block: &mut ItemImpl) {
    for item in &mut block.items {
        if let ImplItem::Fn(f) = item {
            f.attrs.retain(|a| !a.path().is_ident("idempotent"));
        }
    }
}

/// What stands in the parentheses of `#[grain(…)]`.
struct Options {
    name: LitStr,
    keys: KeyKind,
    vis: syn::Visibility,
    root: syn::Path,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let (mut name, mut keys) = (None, KeyKind::Text);
        let (mut vis, mut root) = (syn::parse_quote!(pub), syn::parse_quote!(::millet));
        while !input.is_empty() {
            let option = input.call(<Ident as syn::ext::IdentExt>::parse_any)?;
            input.parse::<Token![=]>().map_err(|e| Error::new(e.span(), HOW))?;
            match option.to_string().as_str() {
                "name" => name = Some(input.parse::<LitStr>().map_err(|e| Error::new(e.span(), HOW))?),
                "key" => keys = key_kind(input)?,
                "vis" => vis = input.parse()?,
                "crate" => root = input.call(syn::Path::parse_mod_style)?,
                other => return Err(Error::new(option.span(), format!("unknown option `{other}`; {HOW}"))),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let Some(name) = name else {
            let why = format!("the grain type needs a name that stays when the Rust type is renamed; {HOW}");
            return Err(Error::new(Span::call_site(), why));
        };
        Ok(Self { name, keys, vis, root })
    }
}

fn key_kind(input: ParseStream<'_>) -> syn::Result<KeyKind> {
    let token: TokenTree = input.parse()?;
    match token.to_string().as_str() {
        "int" => Ok(KeyKind::Int),
        "text" => Ok(KeyKind::Text),
        other => {
            Err(Error::new(token.span(), format!("{other} is no kind of key; use key = int or key = text")))
        }
    }
}

fn read(options: Options, block: &ItemImpl) -> syn::Result<Interface> {
    if let Some((_, path, _)) = &block.trait_ {
        return Err(Error::new(path.span(), "#[grain] goes on `impl Type`, not on the impl of a trait"));
    }
    if !block.generics.params.is_empty() {
        let why = "a grain type may not be generic: it has one declared name; use a concrete type";
        return Err(Error::new(block.generics.span(), why));
    }
    let Type::Path(path) = &*block.self_ty else {
        return Err(Error::new(block.self_ty.span(), "#[grain] goes on the impl of a struct"));
    };
    let Some(ty) = path.path.get_ident().cloned() else {
        return Err(Error::new(
            path.span(),
            "put #[grain] where the type is defined and name it without a path",
        ));
    };
    let methods = block.items.iter().map(|item| method(&ty, item)).collect::<syn::Result<Vec<_>>>()?;
    if !crate::ir::is_type_name(&options.name.value()) {
        let why =
            "a grain type's name is 1 to 128 ASCII letters, digits, `_`, `.` and `-`, such as \"realm.Rank\"";
        return Err(Error::new(options.name.span(), why));
    }
    Ok(Interface {
        name: options.name.value(),
        marker: format_ident!("{ty}Service"),
        module: ir::ident(&ir::snake(&ty.to_string()), ty.span())?,
        stem: ty.clone(),
        host: Host::Type(ty),
        keys: options.keys,
        encoding: Encoding::Named,
        methods,
        vis: options.vis,
        docs: docs(&block.attrs),
        descriptors: None,
        root: options.root,
    })
}

fn method(ty: &Ident, item: &ImplItem) -> syn::Result<Method> {
    let ImplItem::Fn(f) = item else {
        return Err(Error::new(
            item.span(),
            format!("a #[grain] block holds methods only; move this to a plain `impl {ty}`"),
        ));
    };
    let (sig, name) = (&f.sig, &f.sig.ident);
    let plain = format!("or move it to a plain `impl {ty}` if callers should not reach it");
    if sig.asyncness.is_none() {
        return Err(Error::new(
            sig.fn_token.span(),
            format!("a grain method is async: write `async fn {name}`, {plain}"),
        ));
    }
    if !sig.generics.params.is_empty() {
        let why = format!(
            "a grain method may not be generic, for its arguments travel between nodes: use concrete types, {plain}"
        );
        return Err(Error::new(sig.generics.span(), why));
    }
    let shared = receiver(f, &plain)?;
    context(f)?;
    let args = sig.inputs.iter().skip(2).map(argument).collect::<syn::Result<Vec<_>>>()?;
    let (result, error) = output(&sig.output)?;
    let wire = name.to_string().trim_start_matches("r#").to_owned();
    Ok(Method {
        marker: ir::ident(&ir::camel(&wire), name.span())?,
        name: wire,
        function: name.clone(),
        args: Args::Fields(args),
        result,
        error,
        shared,
        idempotent: f.attrs.iter().any(|a| a.path().is_ident("idempotent")),
        docs: docs(&f.attrs),
    })
}

/// Whether the method is a shared one.
fn receiver(f: &syn::ImplItemFn, plain: &str) -> syn::Result<bool> {
    let name = &f.sig.ident;
    let fix = format!(
        "write `async fn {name}(&mut self, ctx: &Ctx<Self>, …)`, or `&self` if it changes nothing, {plain}"
    );
    match f.sig.inputs.first() {
        Some(FnArg::Receiver(r)) if r.reference.is_some() && r.colon_token.is_none() => {
            Ok(r.mutability.is_none())
        }
        Some(FnArg::Receiver(r)) => {
            Err(Error::new(r.span(), format!("a grain method borrows the grain: {fix}")))
        }
        _ => Err(Error::new(name.span(), format!("a grain method takes the grain: {fix}"))),
    }
}

fn context(f: &syn::ImplItemFn) -> syn::Result<()> {
    let fix = "the second parameter of a grain method is `ctx: &Ctx<Self>`";
    let Some(FnArg::Typed(second)) = f.sig.inputs.iter().nth(1) else {
        return Err(Error::new(f.sig.ident.span(), format!("{fix}; add it after the receiver")));
    };
    let is_ctx = match &*second.ty {
        Type::Reference(r) if r.mutability.is_none() => match &*r.elem {
            Type::Path(p) => p.path.segments.last().is_some_and(|s| s.ident == "Ctx"),
            _ => false,
        },
        _ => false,
    };
    if is_ctx { Ok(()) } else { Err(Error::new(second.span(), format!("{fix}; put it before this one"))) }
}

fn argument(arg: &FnArg) -> syn::Result<(Ident, Type)> {
    let FnArg::Typed(arg) = arg else {
        return Err(Error::new(arg.span(), "only the first parameter can be the receiver"));
    };
    let Pat::Ident(pat) = &*arg.pat else {
        let why = "give this argument a name: callers see it, and it is the name of its field on the wire";
        return Err(Error::new(arg.pat.span(), why));
    };
    owned(&arg.ty)?;
    Ok((pat.ident.clone(), (*arg.ty).clone()))
}

/// Arguments and results travel between nodes: no borrows, no `impl Trait`, no `Self`.
fn owned(ty: &Type) -> syn::Result<()> {
    match ty {
        Type::Reference(r) => {
            let why = "arguments and results travel between nodes and cannot be borrowed: use an owned type, such as String for &str";
            Err(Error::new(r.span(), why))
        }
        Type::ImplTrait(t) => {
            Err(Error::new(t.span(), "arguments and results travel between nodes: name a concrete type"))
        }
        _ if mentions_self(ty.to_token_stream()) => Err(Error::new(
            ty.span(),
            "this type is also named outside the impl block: write it out instead of `Self`",
        )),
        _ => Ok(()),
    }
}

fn mentions_self(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|t| match t {
        TokenTree::Ident(i) => i == "Self",
        TokenTree::Group(g) => mentions_self(g.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// `T` is a method that cannot fail, `Result<T, E>` one that can.
fn output(output: &ReturnType) -> syn::Result<(Type, Option<Type>)> {
    let ReturnType::Type(_, ty) = output else { return Ok((syn::parse_quote!(()), None)) };
    owned(ty)?;
    let Type::Path(path) = &**ty else { return Ok(((**ty).clone(), None)) };
    let Some(last) = path.path.segments.last().filter(|s| s.ident == "Result") else {
        return Ok(((**ty).clone(), None));
    };
    let types: Vec<&Type> = match &last.arguments {
        syn::PathArguments::AngleBracketed(a) => a
            .args
            .iter()
            .filter_map(|a| if let syn::GenericArgument::Type(t) = a { Some(t) } else { None })
            .collect(),
        syn::PathArguments::None | syn::PathArguments::Parenthesized(_) => Vec::new(),
    };
    let [ok, error] = types[..] else {
        let why = "write Result<T, E> with both types: the error travels between nodes, so its type must be known here";
        return Err(Error::new(ty.span(), why));
    };
    owned(ok)?;
    owned(error)?;
    Ok((ok.clone(), Some(error.clone())))
}

fn docs(attrs: &[syn::Attribute]) -> Vec<String> {
    attrs
        .iter()
        .filter(|a| a.path().is_ident("doc"))
        .filter_map(|a| match &a.meta {
            syn::Meta::NameValue(syn::MetaNameValue {
                value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(s), .. }),
                ..
            }) => Some(s.value()),
            _ => None,
        })
        .collect()
}
