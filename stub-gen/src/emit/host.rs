//! What hosting and typed references need: the user's trait (contract-first), the message enum, the
//! contract with the mailbox, dispatch, and the reference.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use super::{
    allow,
    caller::{args_type, error_type},
    docs, method_type,
};
use crate::ir::{Args, Host, Interface, Method, method_id};

pub(super) fn emit(i: &Interface) -> TokenStream {
    let allow = allow();
    let parts = [grain_trait(i), message(i), reference(i)];
    let hosting = [hosted(i), hosted_methods(i), dispatch(i)];
    quote! {
        #(#parts)*
        #allow
        const _: () = { #(#hosting)* };
    }
}

fn message_name(i: &Interface) -> syn::Ident {
    format_ident!("{}Msg", i.stem)
}

fn reference_name(i: &Interface) -> syn::Ident {
    format_ident!("{}Ref", i.stem)
}

/// What the user implements. The user writes `async fn`; that the future is `Send` is checked there.
fn grain_trait(i: &Interface) -> TokenStream {
    let Host::Trait(name) = &i.host else { return quote!() };
    let (root, vis, marker) = (&i.root, &i.vis, &i.marker);
    let line = format!(" A grain that implements `{}`.", i.name);
    let methods = i.methods.iter().map(|m| {
        let (function, args, result, error) = (&m.function, args_type(i, m), &m.result, error_type(m));
        let receiver = if m.shared { quote!(&self) } else { quote!(&mut self) };
        let lines =
            if m.docs.is_empty() { vec![format!("The method `{}.{}`.", i.name, m.name)] } else { m.docs.clone() };
        let docs = docs(&lines);
        quote! {
            #docs
            fn #function(#receiver, ctx: &#root::rt::Ctx<Self>, req: #args)
                -> impl ::core::future::Future<Output = ::core::result::Result<#result, #error>> + ::core::marker::Send;
        }
    });
    quote! {
        #[doc = #line]
        #vis trait #name: #root::rt::Grain<Service = #marker> { #(#methods)* }
    }
}

/// One variant per method: its arguments (boxed above 128 bytes, because every queue slot is as large as
/// the largest variant) and where the answer goes.
fn message(i: &Interface) -> TokenStream {
    let (root, vis, name, allow) = (&i.root, &i.vis, message_name(i), allow());
    let line = format!(" A message to a grain of type `{}`.", i.name);
    let variants = i.methods.iter().map(|m| {
        let (variant, slot, ty) = (&m.marker, slot(i, m), method_type(i, m));
        quote!(#variant(<#slot>::As, #root::rt::Reply<#ty>))
    });
    quote! {
        #[doc = #line]
        #allow
        #vis enum #name { #(#variants),* }
    }
}

/// `<Slot<{ size > 128 }> as Carry<Args>>`: how a message carries its arguments.
fn slot(i: &Interface, m: &Method) -> TokenStream {
    let (root, args) = (&i.root, args_type(i, m));
    quote!(#root::rt::Slot<{ ::core::mem::size_of::<#args>() > #root::rt::SLOT_BYTES }> as #root::rt::Carry<#args>)
}

fn hosted(i: &Interface) -> TokenStream {
    let (root, marker, msg, reference) = (&i.root, &i.marker, message_name(i), reference_name(i));
    let name = &i.name;
    let decode = i.methods.iter().map(|m| {
        let (id, ty, variant, slot) = (method_id(&m.name), method_type(i, m), &m.marker, slot(i, m));
        quote! {
            #id => match <#ty as #root::rt::Method>::decode_args(args) {
                ::core::result::Result::Ok(args) =>
                    ::core::result::Result::Ok(#msg::#variant(<#slot>::pack(args), #root::rt::Reply::wire(reply))),
                ::core::result::Result::Err(e) => ::core::result::Result::Err((e, reply)),
            }
        }
    });
    let infos = i.methods.iter().enumerate().map(|(n, m)| {
        let variant = &m.marker;
        quote!(#msg::#variant(..) => &<Self as #root::rt::Service>::METHODS[#n])
    });
    let rejects = i.methods.iter().map(|m| {
        let variant = &m.marker;
        quote!(#msg::#variant(_, reply) => reply.send(::core::result::Result::Err(#root::rt::CallError::Platform(error))))
    });
    quote! {
        impl #root::rt::Hosted for #marker {
            type Msg = #msg;
            type Ref = #reference;
            fn decode(method: #root::rt::MethodId, args: #root::rt::Bytes, reply: #root::rt::WireReply)
                -> ::core::result::Result<#msg, (#root::rt::ErrorKind, #root::rt::WireReply)>
            {
                match method.0 {
                    #(#decode,)*
                    _ => ::core::result::Result::Err((#root::rt::codec::no_such_method(#name, method, Self::METHODS), reply)),
                }
            }
            fn info(msg: &#msg) -> &'static #root::rt::MethodInfo {
                match msg { #(#infos),* }
            }
            fn reject(msg: #msg, error: #root::rt::PlatformError) {
                match msg { #(#rejects),* }
            }
        }
        use #root::rt::Service as _;
    }
}

fn hosted_methods(i: &Interface) -> TokenStream {
    let (root, msg) = (&i.root, message_name(i));
    let impls = i.methods.iter().map(|m| {
        let (ty, variant, slot, args) = (method_type(i, m), &m.marker, slot(i, m), args_type(i, m));
        quote! {
            impl #root::rt::HostedMethod for #ty {
                fn into_msg(args: #args, reply: #root::rt::Reply<Self>) -> #msg {
                    #msg::#variant(<#slot>::pack(args), reply)
                }
                #[allow(unreachable_patterns)]
                fn from_msg(msg: #msg) -> ::core::result::Result<(#args, #root::rt::Reply<Self>), #msg> {
                    match msg {
                        #msg::#variant(args, reply) => ::core::result::Result::Ok((<#slot>::unpack(args), reply)),
                        other => ::core::result::Result::Err(other),
                    }
                }
            }
        }
    });
    quote!(#(#impls)*)
}

fn dispatch(i: &Interface) -> TokenStream {
    let (root, marker, msg) = (&i.root, &i.marker, message_name(i));
    let (generics, grain) = match &i.host {
        Host::Trait(name) => (quote!(<G: #name>), quote!(G)),
        Host::Type(name) => (quote!(), quote!(#name)),
        Host::Nobody => return quote!(),
    };
    // A shared method may also run as an exclusive turn, so `write` knows all of them.
    let write = i.methods.iter().map(|m| arm(i, m, &quote!(ctx.complete(g, reply, result).await)));
    let read = i
        .methods
        .iter()
        .filter(|m| m.shared)
        .map(|m| arm(i, m, &quote!(ctx.complete_shared(reply, result).await)));
    quote! {
        impl #generics #root::rt::Dispatch<#grain> for #marker {
            async fn write(g: &mut #grain, ctx: &#root::rt::Ctx<#grain>, msg: #msg) {
                match msg { #(#write),* }
            }
            #[allow(unreachable_patterns, unused_variables)]
            async fn read(g: &#grain, ctx: &#root::rt::Ctx<#grain>, msg: #msg) {
                match msg {
                    #(#read,)*
                    _ => ::core::unreachable!("the mailbox runs exclusive methods as exclusive turns"),
                }
            }
        }
    }
}

fn arm(i: &Interface, m: &Method, complete: &TokenStream) -> TokenStream {
    let (msg, variant, function, slot) = (message_name(i), &m.marker, &m.function, slot(i, m));
    let call = match (&i.host, &m.args) {
        (Host::Type(name), Args::Fields(fields)) => {
            let names = fields.iter().map(|(n, _)| n);
            quote!(#name::#function(g, ctx, #(args.#names),*).await)
        }
        (Host::Trait(name), _) => quote!(<G as #name>::#function(g, ctx, args).await),
        (Host::Type(name), Args::Message(_)) => quote!(#name::#function(g, ctx, args).await),
        (Host::Nobody, _) => quote!(),
    };
    // A method that cannot fail returns its value; a fallible one its Result. Both give a Result here.
    let result = match (&i.host, &m.error) {
        (Host::Type(_), None) => quote!(::core::result::Result::Ok(#call)),
        (Host::Type(_), Some(_)) | (Host::Trait(_) | Host::Nobody, _) => call,
    };
    quote! {
        #msg::#variant(args, reply) => {
            let args = <#slot>::unpack(args);
            let _ = &args;
            let result: ::core::result::Result<_, _> = #result;
            #complete;
        }
    }
}

/// `PlayerRef`: the methods of a grain, wherever it is.
fn reference(i: &Interface) -> TokenStream {
    let (root, vis, marker, name, allow) = (&i.root, &i.vis, &i.marker, reference_name(i), allow());
    let line = format!(" A reference to a grain of type `{}`, wherever it is. Cheap to clone.", i.name);
    let methods = i.methods.iter().map(|m| {
        let (function, ty, result, error) = (&m.function, method_type(i, m), &m.result, error_type(m));
        let (params, args) = match &m.args {
            Args::Message(ty) if is_unit(ty) => (quote!(), quote!(())),
            Args::Message(ty) => (quote!(, req: #ty), quote!(req)),
            Args::Fields(fields) => {
                let (names, types): (Vec<_>, Vec<_>) = fields.iter().map(|(n, t)| (n, t)).unzip();
                let args = args_type(i, m);
                (quote!(#(, #names: #types)*), quote!(#args { #(#names),* }))
            }
        };
        let lines =
            if m.docs.is_empty() { vec![format!("Calls `{}.{}`.", i.name, m.name)] } else { m.docs.clone() };
        let docs = docs(&lines);
        quote! {
            #docs
            #vis async fn #function(&self #params) -> ::core::result::Result<#result, #root::rt::CallError<#error>> {
                self.0.call::<#ty>(#args).await
            }
        }
    });
    quote! {
        #[doc = #line]
        #[derive(Clone)]
        #vis struct #name(#root::rt::GrainRef<#marker>);
        #allow
        impl #name { #(#methods)* }
        #allow
        impl ::core::convert::From<#root::rt::GrainRef<#marker>> for #name {
            fn from(grain: #root::rt::GrainRef<#marker>) -> Self { Self(grain) }
        }
        #allow
        impl ::core::ops::Deref for #name {
            type Target = #root::rt::GrainRef<#marker>;
            fn deref(&self) -> &Self::Target { &self.0 }
        }
    }
}

fn is_unit(ty: &syn::Type) -> bool {
    matches!(ty, syn::Type::Tuple(t) if t.elems.is_empty())
}
