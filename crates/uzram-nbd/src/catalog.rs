//! The exports of a server, as its handshake sees them: devices of this process, or what other processes serve.

use crate::{
    Error, Export,
    agreement::{Agreement, ExportFacts, TlsTerms, from_text, to_text},
    export::check_names,
};
use std::{os::fd::BorrowedFd, sync::Arc};

/// Why an export cannot be had from whoever serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// Nobody serves it.
    Gone(String),
    /// It is served, but not to this client.
    Refused(String),
    /// Who serves it did not say whether it has the client. So nobody may say anything to the client any more.
    Lost(String),
}

impl Unavailable {
    /// Why, in words.
    pub fn reason(&self) -> &str {
        match self {
            Unavailable::Gone(reason)
            | Unavailable::Refused(reason)
            | Unavailable::Lost(reason) => reason,
        }
    }
}

/// Exports that other processes serve, by number. A server that has them negotiates with each client, and gives it away once
/// it knows what the client asks for. Called on the client's own thread: what waits here holds up no other client.
pub trait ExportDirectory: Send + Sync + 'static {
    /// Asks for what clients are told of these exports, of all of them at once: what each one's
    /// [`RunningServer::terms`](crate::RunningServer::terms) says.
    fn terms(&self, exports: &[usize]) -> Vec<Result<String, Unavailable>>;

    /// Gives a client away: [`RunningServer::take_client`](crate::RunningServer::take_client) gets the socket, or a copy of it,
    /// and what was agreed on. After a refusal the client is still ours.
    fn give(&self, export: usize, client: BorrowedFd<'_>, agreed: &str) -> Result<(), Unavailable>;
}

/// The exports of a server.
#[derive(Clone)]
pub(crate) enum Catalog {
    /// Those of this process.
    Own(Vec<Export>),
    /// Those of others.
    Elsewhere(Elsewhere),
}

/// Exports of other processes.
#[derive(Clone)]
pub(crate) struct Elsewhere {
    pub(crate) names: Vec<String>,
    pub(crate) directory: Arc<dyn ExportDirectory>,
    pub(crate) read_only: bool,
}

impl Default for Catalog {
    fn default() -> Self {
        Catalog::Own(Vec::new())
    }
}

impl Catalog {
    fn len(&self) -> usize {
        match self {
            Catalog::Own(exports) => exports.len(),
            Catalog::Elsewhere(others) => others.names.len(),
        }
    }

    pub(crate) fn name(&self, index: usize) -> &str {
        match self {
            Catalog::Own(exports) => &exports[index].name,
            Catalog::Elsewhere(others) => &others.names[index],
        }
    }

    /// Finds the export of this name; the empty name stands for the first.
    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        let mut all = 0..self.len();
        all.find(|index| name.is_empty() || self.name(*index).as_bytes() == name)
    }

    /// What a client of which TLS has shown this is told of these exports.
    fn told(
        &self,
        which: &[usize],
        shown: Option<&TlsTerms>,
    ) -> Vec<Result<ExportFacts, Unavailable>> {
        match self {
            Catalog::Own(exports) => which.iter().map(|i| Ok(exports[*i].facts())).collect(),
            Catalog::Elsewhere(others) => {
                let told = others.directory.terms(which).into_iter();
                let read =
                    |text: String| from_text::<ExportFacts>(&text).map_err(Unavailable::Refused);
                let named = |(index, facts): (&usize, ExportFacts)| ExportFacts {
                    name: others.names[*index].clone(),
                    read_only: facts.read_only || others.read_only,
                    ..facts
                };
                let may_have =
                    |facts: ExportFacts| match TlsTerms::lacking(facts.tls.as_ref(), shown) {
                        None => Ok(facts),
                        Some(why) => Err(Unavailable::Refused(why.into())),
                    };
                let all = which.iter().zip(told);
                all.map(|(index, told)| {
                    let facts = told.and_then(read).and_then(may_have);
                    facts.map(|facts| named((index, facts)))
                })
                .collect()
            }
        }
    }

    /// What a client of which TLS has shown this is told of one export.
    pub(crate) fn facts(
        &self,
        index: usize,
        shown: Option<&TlsTerms>,
    ) -> Result<ExportFacts, Unavailable> {
        let none = || Err(Unavailable::Gone("nobody answered for it".into()));
        self.told(&[index], shown).pop().unwrap_or_else(none)
    }

    /// The same of all exports, but for those that it cannot have now.
    pub(crate) fn list(&self, shown: Option<&TlsTerms>) -> Vec<ExportFacts> {
        let all: Vec<usize> = (0..self.len()).collect();
        self.told(&all, shown).into_iter().flatten().collect()
    }

    /// The exports that such a client cannot have now, and why.
    pub(crate) fn unavailable(&self, shown: Option<&TlsTerms>) -> Vec<(String, Unavailable)> {
        let all: Vec<usize> = (0..self.len()).collect();
        let told = self.told(&all, shown).into_iter().enumerate();
        told.filter_map(|(index, told)| Some((self.name(index).to_owned(), told.err()?)))
            .collect()
    }

    /// Checks the names: there is one, and each is there once.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Catalog::Own(exports) = self {
            exports.iter().try_for_each(Export::check)?;
        }
        let names: Vec<&str> = (0..self.len()).map(|index| self.name(index)).collect();
        check_names(&names)
    }
}

impl Elsewhere {
    /// Gives a client to whoever serves the export.
    pub(crate) fn give(
        &self,
        index: usize,
        client: BorrowedFd<'_>,
        agreed: &Agreement,
    ) -> Result<(), Unavailable> {
        let agreed = Agreement {
            read_only: self.read_only,
            ..agreed.clone()
        };
        self.directory.give(index, client, &to_text(&agreed))
    }
}
