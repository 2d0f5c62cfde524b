//! What a set must hold: for each key the values that are permitted.

use std::collections::BTreeMap;

/// What is kept under a key: so many bytes that follow from a seed, in a blob or beside the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Bytes.
    pub len: usize,
    /// What they follow from.
    pub seed: u64,
}

/// A key's value, if one is certain, and those that it may have instead: a write was neither
/// acknowledged nor refused for certain.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    certain: Option<Value>,
    perhaps: Vec<Option<Value>>,
}

/// All keys.
#[derive(Debug, Clone, Default)]
pub struct Model(BTreeMap<String, Entry>);

impl Model {
    /// A write was acknowledged: nothing that was before it counts.
    pub fn acknowledge(&mut self, key: &str, value: Option<Value>) {
        let entry = Entry {
            certain: value,
            perhaps: Vec::new(),
        };
        self.0.insert(key.to_owned(), entry);
    }

    /// A write may have happened, or may yet.
    pub fn suspect(&mut self, key: &str, value: Option<Value>) {
        self.0
            .entry(key.to_owned())
            .or_default()
            .perhaps
            .push(value);
    }

    /// Whether a key may be found so.
    pub fn permits(&self, key: &str, found: Option<Value>) -> bool {
        match self.0.get(key) {
            None => found.is_none(),
            Some(entry) => entry.certain == found || entry.perhaps.contains(&found),
        }
    }

    /// After a start a key is what it is.
    pub fn settle(&mut self, key: &str, found: Option<Value>) {
        self.acknowledge(key, found);
    }

    /// Keys that were ever written.
    pub fn keys(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}
