//! From the parsed type to the `impl Module`.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Attribute, Data, DeriveInput, Error, Fields, Generics, LitStr, Result, Type};

/// How one field takes part in the walk.
struct Field<'a> {
    /// What the field is called in patterns.
    binding: Ident,
    /// Its pattern inside `Name { .. }`, such as `weight: f0`.
    member: syn::Member,
    /// Its segment in names; `None` if it has none of its own.
    segment: Option<String>,
    ty: &'a Type,
}

pub fn module(input: &DeriveInput) -> Result<TokenStream> {
    // Where the trait and its companions are.
    let home = match type_attribute(&input.attrs)? {
        Some(path) => quote!(#path::module),
        None => crate::facade::path(),
    };
    let mut tys: Vec<&Type> = Vec::new();
    let (arms, arms_mut) = match &input.data {
        Data::Struct(data) => {
            let fields = fields(&data.fields, false)?;
            tys.extend(fields.iter().map(|f| f.ty));
            let (a, b) = arm(&home, quote!(Self), &fields);
            (vec![a], vec![b])
        }
        Data::Enum(data) => {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for variant in &data.variants {
                reject_module_attribute(&variant.attrs)?;
                let name = &variant.ident;
                let fields = fields(&variant.fields, true)?;
                tys.extend(fields.iter().map(|f| f.ty));
                let (va, vb) = arm(&home, quote!(Self::#name), &fields);
                a.push(va);
                b.push(vb);
            }
            (a, b)
        }
        Data::Union(data) => {
            return Err(Error::new(
                data.union_token.span,
                "`Module` cannot be derived for a union: which field holds the parameters?",
            ));
        }
    };
    // `match *self {}` is the only match on a value of an enum without variants.
    let (body, body_mut) = if arms.is_empty() {
        (quote!(match *self {}), quote!(match *self {}))
    } else {
        (
            quote!(match self { #(#arms)* }),
            quote!(match self { #(#arms_mut)* }),
        )
    };
    let name = &input.ident;
    let generics = with_bounds(&input.generics, &home, &tys);
    let (impl_generics, ty_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #home::Module for #name #ty_generics #where_clause {
            fn visit(
                &self,
                __path: &mut #home::Path,
                __f: &mut dyn ::core::ops::FnMut(#home::Entry<'_>),
            ) {
                __path.enter(self);
                #body
            }
            fn visit_mut(
                &mut self,
                __path: &mut #home::Path,
                __f: &mut dyn ::core::ops::FnMut(&str, #home::EntryMut<'_>),
            ) {
                #body_mut
            }
        }
    })
}

/// The match arms of `visit` and `visit_mut` for one struct or variant.
fn arm(home: &TokenStream, head: TokenStream, fields: &[Field]) -> (TokenStream, TokenStream) {
    let pattern = fields.iter().map(|f| {
        let (member, binding) = (&f.member, &f.binding);
        quote!(#member: #binding)
    });
    let pattern = quote!(#head { #(#pattern,)* .. });
    let calls = |method: Ident| {
        let calls = fields.iter().map(|f| {
            let (binding, ty) = (&f.binding, f.ty);
            // The type's own span, so that "is not a `Module`" points at the field.
            let call = quote_spanned!(ty.span()=> <#ty as #home::Module>::#method);
            match &f.segment {
                Some(name) => quote!(__path.scope(#name, |__path| #call(#binding, __path, __f));),
                None => quote!(#call(#binding, __path, __f);),
            }
        });
        quote!(#pattern => { #(#calls)* })
    };
    (
        calls(format_ident!("visit")),
        calls(format_ident!("visit_mut")),
    )
}

/// The fields that take part, with their names.
fn fields(fields: &Fields, is_variant: bool) -> Result<Vec<Field<'_>>> {
    let transparent = is_variant && matches!(fields, Fields::Unnamed(f) if f.unnamed.len() == 1);
    let mut out: Vec<Field> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let options = field_attributes(&field.attrs)?;
        if options.skip {
            continue;
        }
        let member = match &field.ident {
            Some(ident) => syn::Member::Named(ident.clone()),
            None => syn::Member::Unnamed(i.into()),
        };
        let segment = if options.flatten || (transparent && options.rename.is_none()) {
            None
        } else {
            Some(match (&options.rename, &field.ident) {
                (Some(name), _) => name.value(),
                (None, Some(ident)) => ident.unraw().to_string(),
                (None, None) => i.to_string(),
            })
        };
        if let Some(name) = &segment
            && out.iter().any(|f| f.segment.as_ref() == Some(name))
        {
            let span = options.rename.map_or(field.span(), |r| r.span());
            return Err(Error::new(span, format!("two fields are named `{name}`")));
        }
        out.push(Field {
            binding: Ident::new(&format!("__field{i}"), Span::mixed_site()),
            member,
            segment,
            ty: &field.ty,
        });
    }
    Ok(out)
}

#[derive(Default)]
struct FieldOptions {
    skip: bool,
    flatten: bool,
    rename: Option<LitStr>,
}

fn field_attributes(attrs: &[Attribute]) -> Result<FieldOptions> {
    let mut options = FieldOptions::default();
    for attr in attrs.iter().filter(|a| a.path().is_ident("module")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("skip") {
                options.skip = true;
            } else if meta.path.is_ident("flatten") {
                options.flatten = true;
            } else if meta.path.is_ident("rename") {
                let name: LitStr = meta.value()?.parse()?;
                let value = name.value();
                if value.is_empty() || value.contains(|c: char| c.is_whitespace()) {
                    return Err(Error::new(
                        name.span(),
                        "a parameter's name is not empty and has no white space",
                    ));
                }
                options.rename = Some(name);
            } else {
                return Err(meta.error(
                    "unknown attribute; a field takes `skip`, `flatten` or `rename = \"name\"`",
                ));
            }
            Ok(())
        })?;
        let given = [options.skip, options.flatten, options.rename.is_some()];
        if given.iter().filter(|&&g| g).count() > 1 {
            return Err(Error::new(
                attr.span(),
                "`skip`, `flatten` and `rename` exclude each other",
            ));
        }
    }
    Ok(options)
}

/// The `crate = path` of the type's own attribute.
fn type_attribute(attrs: &[Attribute]) -> Result<Option<syn::Path>> {
    let mut path = None;
    for attr in attrs.iter().filter(|a| a.path().is_ident("module")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("crate") {
                path = Some(meta.value()?.call(syn::Path::parse_mod_style)?);
                Ok(())
            } else {
                Err(meta.error("unknown attribute; a type takes `crate = path`"))
            }
        })?;
    }
    Ok(path)
}

fn reject_module_attribute(attrs: &[Attribute]) -> Result<()> {
    match attrs.iter().find(|a| a.path().is_ident("module")) {
        Some(attr) => Err(Error::new(
            attr.span(),
            "a variant takes no `module` attribute; put it on the variant's field",
        )),
        None => Ok(()),
    }
}

/// The generics with a bound for every visited field whose type depends on a type parameter.
fn with_bounds(generics: &Generics, home: &TokenStream, tys: &[&Type]) -> Generics {
    struct Uses<'a> {
        params: &'a [&'a Ident],
        found: bool,
    }
    impl Visit<'_> for Uses<'_> {
        fn visit_ident(&mut self, ident: &Ident) {
            self.found |= self.params.contains(&ident);
        }
        fn visit_macro(&mut self, mac: &syn::Macro) {
            // What a macro in type position expands to is unknown: bound it.
            self.found = true;
            visit::visit_macro(self, mac);
        }
    }
    let mut out = generics.clone();
    let params: Vec<&Ident> = generics.type_params().map(|p| &p.ident).collect();
    if params.is_empty() {
        return out;
    }
    let mut seen: Vec<String> = Vec::new();
    for ty in tys {
        let mut uses = Uses {
            params: &params,
            found: false,
        };
        uses.visit_type(ty);
        let written = quote!(#ty).to_string();
        if uses.found && !seen.contains(&written) {
            seen.push(written);
            out.make_where_clause()
                .predicates
                .push(syn::parse_quote!(#ty: #home::Module));
        }
    }
    out
}
