//! What attributes say of a test: whether it is compiled at all, and which of them a macro gives.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::{Attribute, Meta, Token};

/// Whether what has these attributes is part of every test program, whatever the machine and the features.
pub fn always_hold(attributes: &[Attribute]) -> bool {
    attributes.iter().all(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            list.parse_args::<Meta>().is_ok_and(|condition| value(&condition) == Some(true))
        }
        Meta::List(list) if list.path.is_ident("cfg_attr") => {
            !words(list.tokens.clone()).iter().any(|word| word == "ignore" || word == "path")
        }
        _ => true,
    })
}

/// What a condition is in a test program; `None` where the build decides.
fn value(condition: &Meta) -> Option<bool> {
    let Meta::List(list) = condition else { return condition.path().is_ident("test").then_some(true) };
    let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
    let values: Vec<_> = parts.iter().map(value).collect();
    let unless = |decisive: bool| {
        if values.contains(&Some(decisive)) {
            return Some(decisive);
        }
        (!values.contains(&None)).then_some(!decisive)
    };
    match list.path.get_ident()?.to_string().as_str() {
        "not" => values.first().copied().flatten().map(|inner| !inner),
        "all" => unless(false),
        "any" => unless(true),
        _ => None,
    }
}

/// The last words of the attributes' paths that stand anywhere among these tokens, as those of a macro.
pub fn within(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    let mut after_hash = false;
    for token in tokens {
        if let TokenTree::Group(group) = &token {
            if after_hash && group.delimiter() == Delimiter::Bracket {
                let path = group.stream().into_iter().take_while(|part| match part {
                    TokenTree::Ident(_) => true,
                    TokenTree::Punct(mark) => mark.as_char() == ':',
                    _ => false,
                });
                found.extend(words(path.collect()).pop());
            } else {
                found.extend(within(group.stream()));
            }
        }
        after_hash = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == '#');
    }
    found
}

/// The identifiers on the outer level.
fn words(tokens: TokenStream) -> Vec<String> {
    let identifiers = tokens.into_iter().filter_map(|token| match token {
        TokenTree::Ident(word) => Some(word.to_string()),
        _ => None,
    });
    identifiers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_build_has_holds() {
        let holds = |text: &str| {
            let function: syn::ItemFn = syn::parse_str(&format!("{text} fn f() {{}}")).unwrap();
            always_hold(&function.attrs)
        };
        for always in
            ["#[test]", "#[cfg(test)]", "#[cfg(any(test, feature = \"x\"))]", "#[cfg(not(not(test)))]"]
        {
            assert!(holds(always), "{always}");
        }
        for never in [
            "#[cfg(feature = \"x\")]",
            "#[cfg(not(test))]",
            "#[cfg(any())]",
            "#[cfg(all(test, unix))]",
            "#[cfg_attr(test, ignore)]",
        ] {
            assert!(!holds(never), "{never}");
        }
    }

    #[test]
    fn attributes_are_found_in_macros() {
        let of = |text: &str| within(text.parse().unwrap());
        assert_eq!(of("#![config(3)] #[test] #[ignore = \"x\"] fn a(x in 0..3) {}"), ["test", "ignore"]);
        assert_eq!(of("($n:ident) => { #[tokio::test(start_paused = true)] fn $n() {} }"), ["test"]);
        assert_eq!(of("test(test)"), [""; 0]);
    }
}
