//! The contract-first front: `.proto` services become grain interfaces, from `build.rs` and without
//! protoc.
//!
//! ```no_run
//! fn main() -> Result<(), millet_stub_gen::proto::Error> {
//!     millet_stub_gen::proto::compile(&["proto/realm.proto"], &["proto"])
//! }
//! ```
//! The crate then says `millet::include_grains!("realm");` with the package's name.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    rc::Rc,
};

use proc_macro2::Span;
use prost_reflect::{DescriptorPool, ServiceDescriptor, Value};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};
use quote::format_ident;

use crate::ir::{self, Args, Encoding, Host, Interface, KeyKind};

/// The file that services import for `option (millet.key) = INT;`.
const OPTIONS: (&str, &str) = ("millet/options.proto", include_str!("../proto/millet/options.proto"));

/// Why nothing was generated. Prints as a message for people also with `Debug`, which is how a failing
/// `main` of a build script shows it.
pub struct Error(String);

impl Error {
    fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Error {}

/// Generates code for `files`, looked up in `includes`, into cargo's OUT_DIR, with default settings.
///
/// # Errors
/// A file does not parse, or a service breaks a rule of grain interfaces; the message names both.
pub fn compile(files: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    configure().compile(files, includes)
}

/// Settings other than the default ones.
pub fn configure() -> Builder {
    Builder { root: syn::parse_quote!(::millet), hosting: true, out_dir: None, type_attributes: Vec::new() }
}

/// How code is generated; see [`configure`].
pub struct Builder {
    root: syn::Path,
    hosting: bool,
    out_dir: Option<PathBuf>,
    type_attributes: Vec<(String, String)>,
}

impl Builder {
    /// Where `millet` is found by the generated code: `::millet`, unless it is re-exported elsewhere.
    #[must_use]
    pub fn root(mut self, root: syn::Path) -> Self {
        self.root = root;
        self
    }

    /// Whether grains of these services are hosted by the crate (the default). Without it only what
    /// callers need is generated: enough for `millet` without default features.
    #[must_use]
    pub fn hosting(mut self, hosting: bool) -> Self {
        self.hosting = hosting;
        self
    }

    /// A folder other than cargo's OUT_DIR.
    #[must_use]
    pub fn out_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(dir.into());
        self
    }

    /// An attribute for the messages under a proto path, such as `.realm.Profile`.
    #[must_use]
    pub fn type_attribute(mut self, path: &str, attribute: &str) -> Self {
        self.type_attributes.push((path.into(), attribute.into()));
        self
    }

    /// Generates the code.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn compile(self, files: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
        let out = match &self.out_dir {
            Some(dir) => dir.clone(),
            None => std::env::var_os("OUT_DIR")
                .map(PathBuf::from)
                .ok_or_else(|| Error::new("OUT_DIR is not set; call this from build.rs"))?,
        };
        let mut compiler = compiler(includes)?;
        compiler.open_files(files).map_err(Error::new)?;
        for file in compiler.files().filter_map(|f| f.path().map(Path::to_owned)) {
            println!("cargo:rerun-if-changed={}", file.display());
        }
        let pool = compiler.descriptor_pool();
        let facts = Facts::of(&pool)?;
        let bytes = descriptors(files, includes)?;
        for package in facts.packages() {
            write(&out.join(descriptor_file(&package)), &bytes)?;
        }
        self.generate(&out, compiler.file_descriptor_set(), facts)
    }

    fn generate(&self, out: &Path, mut set: prost_build_set::Set, facts: Facts) -> Result<(), Error> {
        set.file.retain(|f| f.name() != OPTIONS.0 && f.package() != "google.protobuf");
        let root = tokens(&self.root);
        let errors = Rc::new(RefCell::new(Vec::new()));
        let generator =
            Generator { root: self.root.clone(), hosting: self.hosting, facts, errors: Rc::clone(&errors) };
        let mut config = prost_build::Config::new();
        config
            .bytes(["."])
            .prost_path(format!("{root}::rt::prost"))
            .prost_types_path(format!("{root}::rt::prost_types"))
            .type_attribute(".", "#[allow(missing_docs, clippy::all, clippy::pedantic)]")
            .service_generator(Box::new(generator))
            .out_dir(out);
        for (path, attribute) in &self.type_attributes {
            config.type_attribute(path, attribute);
        }
        config.compile_fds(set).map_err(Error::new)?;
        let errors = errors.borrow();
        if errors.is_empty() { Ok(()) } else { Err(Error::new(errors.join("\n"))) }
    }
}

/// The descriptor set type that prost-build and protox share.
mod prost_build_set {
    pub(super) type Set = prost_reflect::prost_types::FileDescriptorSet;
}

fn tokens(path: &syn::Path) -> String {
    quote::quote!(#path).to_string().replace(' ', "")
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(|e| Error::new(format_args!("cannot write {}: {e}", path.display())))
}

fn descriptor_file(package: &str) -> String {
    format!("{}.descriptors.bin", if package.is_empty() { "_" } else { package })
}

fn compiler(includes: &[impl AsRef<Path>]) -> Result<protox::Compiler, Error> {
    let mut resolver = ChainFileResolver::new();
    for include in includes {
        resolver.add(IncludeFileResolver::new(include.as_ref().to_owned()));
    }
    resolver.add(Options);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true);
    Ok(compiler)
}

/// The set that travels in the binary: with imports, without comments.
fn descriptors(files: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<Vec<u8>, Error> {
    let mut compiler = compiler(includes)?;
    compiler.include_source_info(false).open_files(files).map_err(Error::new)?;
    Ok(compiler.encode_file_descriptor_set())
}

/// Finds `millet/options.proto` without an include path.
struct Options;

impl FileResolver for Options {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == OPTIONS.0 {
            File::from_source(OPTIONS.0, OPTIONS.1)
        } else {
            Err(protox::Error::file_not_found(name))
        }
    }
}

/// What prost-build forgets of a service: its custom options. By full name.
struct Facts(HashMap<String, KeyKind>);

impl Facts {
    fn of(pool: &DescriptorPool) -> Result<Self, Error> {
        pool.services()
            .map(|s| Ok((s.full_name().to_owned(), key_kind(pool, &s)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn packages(&self) -> std::collections::BTreeSet<String> {
        self.0
            .keys()
            .map(|name| name.rsplit_once('.').map_or("", |(package, _)| package).to_owned())
            .collect()
    }
}

fn key_kind(pool: &DescriptorPool, service: &ServiceDescriptor) -> Result<KeyKind, Error> {
    let Some(option) = pool.get_extension_by_name("millet.key") else { return Ok(KeyKind::Text) };
    match service.options().get_extension(&option).as_ref() {
        Value::EnumNumber(0) => Ok(KeyKind::Text),
        Value::EnumNumber(1) => Ok(KeyKind::Int),
        other => Err(Error::new(format_args!(
            "{}: (millet.key) = {other:?} is no kind of key; use INT or TEXT",
            service.full_name()
        ))),
    }
}

struct Generator {
    root: syn::Path,
    hosting: bool,
    facts: Facts,
    errors: Rc<RefCell<Vec<String>>>,
}

impl prost_build::ServiceGenerator for Generator {
    fn generate(&mut self, service: prost_build::Service, buf: &mut String) {
        let name = full_name(&service);
        let code = self.interface(&name, &service).and_then(|i| crate::emit::emit(&i));
        match code.and_then(syn::parse2) {
            Ok(file) => buf.push_str(&prettyplease::unparse(&file)),
            Err(e) => self.errors.borrow_mut().push(format!("service {name}: {e}")),
        }
    }
}

fn full_name(service: &prost_build::Service) -> String {
    if service.package.is_empty() {
        service.proto_name.clone()
    } else {
        format!("{}.{}", service.package, service.proto_name)
    }
}

impl Generator {
    fn interface(&self, name: &str, service: &prost_build::Service) -> syn::Result<Interface> {
        let here = Span::call_site();
        let marker = ir::ident(&service.name, here)?;
        let bytes = descriptor_file(&service.package);
        Ok(Interface {
            name: name.to_owned(),
            module: ir::ident(&ir::snake(&service.name), here)?,
            stem: marker.clone(),
            host: if self.hosting { Host::Trait(format_ident!("{marker}Grain")) } else { Host::Nobody },
            marker,
            keys: self.facts.0.get(name).copied().unwrap_or(KeyKind::Text),
            encoding: Encoding::Protobuf,
            methods: service.methods.iter().map(|m| self.method(m)).collect::<syn::Result<_>>()?,
            vis: syn::parse_quote!(pub),
            docs: service.comments.leading.clone(),
            descriptors: Some(quote::quote!(::core::include_bytes!(#bytes))),
            root: self.root.clone(),
        })
    }

    fn method(&self, m: &prost_build::Method) -> syn::Result<ir::Method> {
        use prost_reflect::prost_types::method_options::IdempotencyLevel;
        let here = Span::call_site();
        if m.client_streaming || m.server_streaming {
            let why = format!(
                "rpc {} streams, which grain methods cannot do yet (planned); send pages, or use messages of one grain to another",
                m.proto_name
            );
            return Err(syn::Error::new(here, why));
        }
        let level = m.options.idempotency_level();
        let root = &self.root;
        Ok(ir::Method {
            name: m.proto_name.clone(),
            function: ir::ident(&m.name, here)?,
            marker: ir::ident(&ir::camel(&m.proto_name), here)?,
            args: Args::Message(syn::parse_str(&m.input_type)?),
            result: syn::parse_str(&m.output_type)?,
            error: Some(syn::parse_quote!(#root::rt::Refusal)),
            shared: level == IdempotencyLevel::NoSideEffects,
            idempotent: level == IdempotencyLevel::Idempotent,
            docs: m.comments.leading.clone(),
        })
    }
}
