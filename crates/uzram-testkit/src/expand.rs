//! Expands a crate's own `macro_rules!` macros where items stand, so that the listing of the public API sees the items that
//! they make.
//!
//! This is a reader of a macro's arms, not a compiler: no hygiene, no macros of other crates. What it cannot expand is a
//! panic, never an item less.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The macros of a crate by their names.
#[derive(Default)]
pub(crate) struct Macros(BTreeMap<String, Vec<Arm>>);

struct Arm {
    pattern: Vec<TokenTree>,
    body: Vec<TokenTree>,
}

/// What a name of a pattern stands for.
#[derive(Clone)]
enum Bound {
    One(Vec<TokenTree>),
    /// In a repetition: for each turn.
    Many(Vec<Bound>),
}

type Bindings = BTreeMap<String, Bound>;

/// What a pattern or a body has next.
enum Element<'a> {
    /// `$name:kind`, or `$name` in a body, where the kind is empty.
    Name(String, String),
    /// `$(...) separator *`.
    Repetition(Vec<TokenTree>, Option<&'a TokenTree>),
    Group(&'a Group),
    Token(&'a TokenTree),
}

impl Macros {
    /// Takes up the macros that a file defines.
    pub(crate) fn define(&mut self, file: &TokenStream) {
        let trees: Vec<TokenTree> = file.clone().into_iter().collect();
        for at in 0..trees.len() {
            let Some((name, rules)) = definition(&trees[at..]) else {
                continue;
            };
            self.0.insert(name, arms(rules));
        }
    }

    /// The file with what its macros make of it, if that is public; `None` where the source says it all.
    pub(crate) fn expand(&self, file: TokenStream) -> Option<TokenStream> {
        let mut makes_public = false;
        let trees = self.items(file, &mut makes_public, 0);
        makes_public.then(|| trees.into_iter().collect())
    }

    fn items(&self, stream: TokenStream, makes_public: &mut bool, depth: usize) -> Vec<TokenTree> {
        assert!(depth < 64, "a macro expands to itself");
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut out: Vec<TokenTree> = Vec::new();
        // Where the current item begins in `out`.
        let mut begin = 0;
        let mut at = 0;
        while at < trees.len() {
            if let Some((_, rules)) = definition(&trees[at..]) {
                out.truncate(begin);
                at += 4;
                at += usize::from(rules.delimiter() != Delimiter::Brace);
                continue;
            }
            let attributes = out[begin..].iter().all(is_attribute);
            if attributes && let Some((name, group)) = invocation(&trees[at..]) {
                at += 3;
                at += usize::from(group.delimiter() != Delimiter::Brace && at < trees.len());
                let public = |made: &[TokenTree]| has_public(made.iter().cloned().collect());
                match self.0.get(&name) {
                    Some(arms) => {
                        let made = expansion(arms, group)
                            .unwrap_or_else(|| panic!("{name}!: no arm was understood"));
                        *makes_public |= public(&made);
                        let made = made.into_iter().collect();
                        out.extend(self.items(made, makes_public, depth + 1));
                    }
                    // Another crate's, such as thread_local.
                    None => assert!(
                        !has_public(group.stream()),
                        "{name}! is not this crate's, and may make public items that the listing does not see"
                    ),
                }
                begin = out.len();
                continue;
            }
            let tree = trees[at].clone();
            at += 1;
            let TokenTree::Group(group) = &tree else {
                let ends = matches!(&tree, TokenTree::Punct(p) if p.as_char() == ';');
                out.push(tree);
                begin = if ends { out.len() } else { begin };
                continue;
            };
            if group.delimiter() != Delimiter::Brace {
                out.push(tree);
                continue;
            }
            let head: TokenStream = out[begin..].iter().cloned().collect();
            let says = |word: &str| out[begin..].iter().any(|tree| is_word(tree, word));
            let of_items = says("impl") || says("mod") || says("trait");
            let tests = head.to_string().contains("cfg (test)");
            if of_items && !says("fn") && !tests {
                let inner = self.items(group.stream(), makes_public, depth);
                let inner = Group::new(Delimiter::Brace, inner.into_iter().collect());
                out.push(inner.into());
            } else {
                out.push(tree);
            }
            begin = out.len();
        }
        out
    }
}

fn is_word(tree: &TokenTree, word: &str) -> bool {
    matches!(tree, TokenTree::Ident(ident) if ident == word)
}

fn is_punct(tree: Option<&TokenTree>, wanted: char) -> bool {
    matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// Part of `#[...]`.
fn is_attribute(tree: &TokenTree) -> bool {
    match tree {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Bracket,
        tree => is_punct(Some(tree), '#'),
    }
}

/// Whether there is a `pub` that is not of the crate alone.
fn has_public(stream: TokenStream) -> bool {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    trees.iter().enumerate().any(|(at, tree)| match tree {
        TokenTree::Group(group) => has_public(group.stream()),
        tree => {
            let next = trees.get(at + 1);
            let limited = matches!(next, Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Parenthesis);
            is_word(tree, "pub") && !limited
        }
    })
}

/// `macro_rules! name { ... }` at the front.
fn definition(trees: &[TokenTree]) -> Option<(String, &Group)> {
    match trees {
        [
            word,
            mark,
            TokenTree::Ident(name),
            TokenTree::Group(rules),
            ..,
        ] if is_word(word, "macro_rules") && is_punct(Some(mark), '!') => {
            Some((name.to_string(), rules))
        }
        _ => None,
    }
}

/// `name!(...)` at the front.
fn invocation(trees: &[TokenTree]) -> Option<(String, &Group)> {
    match trees {
        [TokenTree::Ident(name), mark, TokenTree::Group(group), ..]
            if is_punct(Some(mark), '!') =>
        {
            Some((name.to_string(), group))
        }
        _ => None,
    }
}

/// `(pattern) => { body };` and so on.
fn arms(rules: &Group) -> Vec<Arm> {
    let trees: Vec<TokenTree> = rules.stream().into_iter().collect();
    let groups = trees.iter().filter_map(|tree| match tree {
        TokenTree::Group(group) => Some(group.stream().into_iter().collect::<Vec<_>>()),
        _ => None,
    });
    let groups: Vec<_> = groups.collect();
    groups
        .chunks_exact(2)
        .map(|pair| Arm {
            pattern: pair[0].clone(),
            body: pair[1].clone(),
        })
        .collect()
}

/// What the first arm that matches makes of it.
fn expansion(arms: &[Arm], input: &Group) -> Option<Vec<TokenTree>> {
    let input: Vec<TokenTree> = input.stream().into_iter().collect();
    arms.iter().find_map(|arm| {
        let (bindings, rest) = prefix(&arm.pattern, &input, None)?;
        rest.is_empty().then(|| transcribe(&arm.body, &bindings))
    })
}

/// The next element, and how many tokens it is.
fn element(trees: &[TokenTree]) -> (Element<'_>, usize) {
    match trees {
        [
            dollar,
            TokenTree::Ident(name),
            colon,
            TokenTree::Ident(kind),
            ..,
        ] if is_punct(Some(dollar), '$') && is_punct(Some(colon), ':') => {
            (Element::Name(name.to_string(), kind.to_string()), 4)
        }
        [dollar, TokenTree::Group(group), rest @ ..] if is_punct(Some(dollar), '$') => {
            let inner = group.stream().into_iter().collect();
            let counts =
                |tree: Option<&TokenTree>| ['*', '+', '?'].iter().any(|c| is_punct(tree, *c));
            match counts(rest.first()) {
                true => (Element::Repetition(inner, None), 3),
                false => (Element::Repetition(inner, rest.first()), 4),
            }
        }
        [TokenTree::Group(group), ..] => (Element::Group(group), 1),
        _ => (Element::Token(&trees[0]), 1),
    }
}

/// Matches a pattern with the front of the input: what its names stand for, and the rest. `next` comes after the pattern.
fn prefix<'a>(
    pattern: &[TokenTree],
    mut input: &'a [TokenTree],
    next: Option<&TokenTree>,
) -> Option<(Bindings, &'a [TokenTree])> {
    let mut bindings = Bindings::new();
    let mut at = 0;
    while at < pattern.len() {
        let (found, length) = element(&pattern[at..]);
        at += length;
        match found {
            Element::Name(name, kind) => {
                let taken = fragment(&kind, input, pattern.get(at).or(next))?;
                bindings.insert(name, Bound::One(input[..taken].to_vec()));
                input = &input[taken..];
            }
            Element::Repetition(inner, separator) => {
                let mut turns = Vec::new();
                let after = separator.or(pattern.get(at)).or(next);
                let mut rest = input;
                while let Some((turn, left)) = prefix(&inner, rest, after)
                    && left.len() < rest.len()
                {
                    turns.push(turn);
                    input = left;
                    match separator {
                        None => rest = left,
                        Some(token) if same(left.first(), token) => rest = &left[1..],
                        Some(_) => break,
                    }
                }
                for name in names(&inner) {
                    let of = |turn: &Bindings| turn.get(&name).cloned();
                    let all = turns.iter().filter_map(of).collect();
                    bindings.insert(name, Bound::Many(all));
                }
            }
            Element::Group(group) => {
                let Some(TokenTree::Group(given)) = input.first() else {
                    return None;
                };
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let given_inner: Vec<TokenTree> = given.stream().into_iter().collect();
                let (more, rest) = prefix(&inner, &given_inner, None)?;
                if given.delimiter() != group.delimiter() || !rest.is_empty() {
                    return None;
                }
                bindings.extend(more);
                input = &input[1..];
            }
            Element::Token(token) if same(input.first(), token) => input = &input[1..],
            Element::Token(_) => return None,
        }
    }
    Some((bindings, input))
}

fn same(tree: Option<&TokenTree>, wanted: &TokenTree) -> bool {
    tree.is_some_and(|tree| tree.to_string() == wanted.to_string())
}

/// The names that a pattern binds.
fn names(pattern: &[TokenTree]) -> Vec<String> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < pattern.len() {
        let (found, length) = element(&pattern[at..]);
        at += length;
        match found {
            Element::Name(name, _) => all.push(name),
            Element::Repetition(inner, _) => all.extend(names(&inner)),
            Element::Group(group) => {
                all.extend(names(&group.stream().into_iter().collect::<Vec<_>>()));
            }
            Element::Token(_) => {}
        }
    }
    all
}

/// How many tokens a fragment takes. What is longer than a token ends before the token that `next` is.
fn fragment(kind: &str, input: &[TokenTree], next: Option<&TokenTree>) -> Option<usize> {
    let first = input.first();
    match kind {
        "ident" => matches!(first, Some(TokenTree::Ident(_))).then_some(1),
        "literal" => matches!(first, Some(TokenTree::Literal(_))).then_some(1),
        "tt" => first.map(|_| 1),
        "lifetime" => is_punct(first, '\'').then_some(2),
        "vis" => Some(match (first, input.get(1)) {
            (Some(word), Some(TokenTree::Group(group)))
                if is_word(word, "pub") && group.delimiter() == Delimiter::Parenthesis =>
            {
                2
            }
            (Some(word), _) => usize::from(is_word(word, "pub")),
            _ => 0,
        }),
        _ => {
            let mut angles = 0_usize;
            let end = input.iter().enumerate().position(|(at, tree)| {
                let arrow = at > 0 && is_punct(input.get(at - 1), '-');
                match tree {
                    TokenTree::Punct(punct) if punct.as_char() == '<' => angles += 1,
                    TokenTree::Punct(punct) if punct.as_char() == '>' && !arrow => {
                        angles = angles.saturating_sub(1);
                    }
                    _ => {}
                }
                at > 0 && angles == 0 && next.is_some_and(|next| same(Some(tree), next))
            });
            let end = end.unwrap_or(input.len());
            (end > 0).then_some(end)
        }
    }
}

fn transcribe(body: &[TokenTree], bindings: &Bindings) -> Vec<TokenTree> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < body.len() {
        if is_punct(body.get(at), '$')
            && let Some(TokenTree::Ident(name)) = body.get(at + 1)
        {
            match bindings.get(&name.to_string()) {
                Some(Bound::One(trees)) => out.extend(trees.iter().cloned()),
                Some(Bound::Many(_)) => panic!("${name} outside of its repetition"),
                // `$crate`.
                None => out.push(name.clone().into()),
            }
            at += 2;
            continue;
        }
        let (found, length) = element(&body[at..]);
        at += length;
        match found {
            Element::Repetition(inner, separator) => {
                let used = used(&inner);
                let turns = bindings.iter().filter_map(|(name, bound)| match bound {
                    Bound::Many(turns) if used.contains(name) => Some(turns.len()),
                    _ => None,
                });
                for turn in 0..turns.max().unwrap_or(0) {
                    if turn > 0 {
                        out.extend(separator.cloned());
                    }
                    let of_turn = bindings.iter().map(|(name, bound)| match bound {
                        Bound::Many(turns) if used.contains(name) => {
                            (name.clone(), turns[turn].clone())
                        }
                        bound => (name.clone(), bound.clone()),
                    });
                    out.extend(transcribe(&inner, &of_turn.collect()));
                }
            }
            Element::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let made = transcribe(&inner, bindings).into_iter().collect();
                out.push(Group::new(group.delimiter(), made).into());
            }
            Element::Token(token) => out.push(token.clone()),
            Element::Name(name, _) => unreachable!("${name} was looked up"),
        }
    }
    out
}

/// The words after a `$` in a body.
fn used(body: &[TokenTree]) -> Vec<String> {
    let mut all = Vec::new();
    for (at, tree) in body.iter().enumerate() {
        match tree {
            TokenTree::Group(group) => {
                all.extend(used(&group.stream().into_iter().collect::<Vec<_>>()));
            }
            TokenTree::Ident(name) if at > 0 && is_punct(body.get(at - 1), '$') => {
                all.push(name.to_string());
            }
            _ => {}
        }
    }
    all
}
