//! Under which name the deriving crate knows Fornax.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use std::path::Path;

/// The crates that export `module::Module`, the preferred first, and where within them.
const EXPORTERS: [(&str, &str); 3] = [
    ("fornax", "nn::module"),
    ("fornax-nn", "module"),
    ("fornax-tensor", "module"),
];

/// The path of the module that exports the trait, such as `::fornax::nn::module`.
///
/// A derive sees only tokens, so the crate's own manifest is asked; the facade is assumed where it
/// does not say.
pub fn path() -> TokenStream {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let own = EXPORTERS.iter().position(|(e, _)| *e == package);
    let (name, exporter) = match own {
        // Those crates name themselves with `extern crate self`, so their own code, tests and
        // examples all find this.
        Some(i) => (package, i),
        None => std::env::var("CARGO_MANIFEST_DIR")
            .ok()
            .and_then(|dir| std::fs::read_to_string(Path::new(&dir).join("Cargo.toml")).ok())
            .and_then(|manifest| dependency(&manifest))
            .unwrap_or_else(|| (EXPORTERS[0].0.to_owned(), 0)),
    };
    let krate = format_ident!("{}", name.replace('-', "_"));
    let within: syn::Path = syn::parse_str(EXPORTERS[exporter].1).expect("a path");
    quote!(::#krate::#within)
}

/// The name under which a manifest depends on the most preferred exporter, and which that is.
///
/// Reads just enough TOML: `[..dependencies]` tables with `name = ..` or `name.key = ..` lines,
/// `[..dependencies.name]` tables, and the `package = ".."` of a renamed dependency.
fn dependency(manifest: &str) -> Option<(String, usize)> {
    let mut found: [Option<String>; 3] = Default::default();
    let mut note = |package: &str, name: &str| {
        if let Some(i) = EXPORTERS.iter().position(|(e, _)| *e == package) {
            found[i].get_or_insert_with(|| name.to_owned());
        }
    };
    let mut in_list = false;
    let mut table: Option<String> = None;
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default().trim();
            in_list = header.ends_with("dependencies");
            table = header
                .rsplit_once("dependencies.")
                .map(|(_, name)| unquote(name).to_owned());
            if let Some(name) = &table {
                note(name, name);
            }
        } else if let Some((key, value)) = line.split_once('=') {
            let key = unquote(key.trim());
            if let Some(name) = &table {
                if key == "package" {
                    note(
                        unquote(value.split('#').next().unwrap_or_default().trim()),
                        name,
                    );
                }
            } else if in_list {
                let name = unquote(key.split('.').next().unwrap_or_default());
                note(renamed_package(value).unwrap_or(name), name);
            }
        }
    }
    let found = found.into_iter().enumerate();
    found.filter_map(|(i, name)| Some((name?, i))).next()
}

/// The `package` of an inline table such as `{ version = "1", package = "fornax" }`.
fn renamed_package(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("package")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    rest.strip_prefix('"')?.split('"').next()
}

fn unquote(s: &str) -> &str {
    s.trim_matches(['"', '\''])
}

#[cfg(test)]
mod tests {
    use super::dependency;

    #[test]
    fn finds_the_facade_in_a_manifest() {
        let find = |m: &str| dependency(m).map(|(name, _)| name);
        assert_eq!(
            find("[dependencies]\nfornax = \"0.1\"").as_deref(),
            Some("fornax")
        );
        assert_eq!(
            find("[dependencies]\nfornax-nn.workspace = true\nserde = \"1\"").as_deref(),
            Some("fornax-nn")
        );
        assert_eq!(
            find("[dependencies]\nfornax-nn = \"1\"\n[dev-dependencies.fornax]\npath = \"..\"")
                .as_deref(),
            Some("fornax")
        );
        assert_eq!(
            find("[dependencies]\ndl = { package = \"fornax\", version = \"1\" }").as_deref(),
            Some("dl")
        );
        assert_eq!(
            find("[dependencies.dl]\npackage = \"fornax\" # renamed\n").as_deref(),
            Some("dl")
        );
        assert_eq!(
            find("[package]\nname = \"fornax\"\n[dependencies]\nserde = \"1\""),
            None
        );
    }
}
