//! Reading the keys one by one, collecting what is wrong.

use figment::value::{Dict, Value};

use crate::{
    fault::{Fault, Origin},
    keys::{self, Fallback, KEYS, Key},
    layers::Layers,
    source::{Part, Trail},
    value::{Read, Wrong},
};

/// The sources and the faults that were found in them so far.
pub(crate) struct Reader {
    pub(crate) layers: Layers,
    pub(crate) faults: Vec<Fault>,
    #[cfg(test)]
    pub(crate) read: std::collections::BTreeSet<&'static str>,
}

/// A table that is being read.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) dict: &'a Dict,
    pub(crate) trail: &'a Trail,
}

impl Reader {
    pub(crate) fn new(layers: Layers) -> Self {
        Self {
            layers,
            faults: Vec::new(),
            #[cfg(test)]
            read: std::collections::BTreeSet::new(),
        }
    }

    /// Notes that something is wrong.
    pub(crate) fn fault(&mut self, origin: Origin, trail: &Trail, wrong: Wrong) {
        let Wrong { problem, advice } = wrong;
        self.faults.push(Fault { origin, key: trail.dotted(), problem, advice });
    }

    /// Notes that something is wrong with a value.
    pub(crate) fn fault_at(&mut self, value: &Value, trail: &Trail, part: Part, wrong: Wrong) {
        let origin = self.layers.origin(value, trail, part);
        self.fault(origin, trail, wrong);
    }

    /// A key's value, where it was given and does.
    pub(crate) fn given<T>(&mut self, name: &'static str, read: impl Fn(&Value) -> Read<T>) -> Option<T> {
        #[cfg(test)]
        self.read.insert(name);
        let value = self.value(name)?;
        self.accept(&value, &Trail::of(name), read)
    }

    /// A key's value, or its default. A value that does not do is a fault, and the default stands in for it, so that the
    /// rest can be looked at.
    pub(crate) fn value_or_default<T>(&mut self, name: &'static str, read: impl Fn(&Value) -> Read<T>) -> T {
        self.given(name, &read).unwrap_or_else(|| default(KEYS, name, read))
    }

    /// The value of a key, as it was given.
    pub(crate) fn value(&self, name: &str) -> Option<Value> {
        let mut dict = &self.layers.root;
        let mut parts = name.split('.').peekable();
        while let Some(part) = parts.next() {
            match (dict.get(part)?, parts.peek()) {
                (value, None) => return Some(value.clone()),
                (Value::Dict(_, inner), Some(_)) => dict = inner,
                (_, Some(_)) => return None,
            }
        }
        None
    }

    /// Where a key was given.
    pub(crate) fn origin_of(&self, name: &str) -> Origin {
        let value = self.value(name);
        value.map_or(Origin::Default, |value| self.layers.origin(&value, &Trail::of(name), Part::Value))
    }

    fn accept<T>(&mut self, value: &Value, trail: &Trail, read: impl Fn(&Value) -> Read<T>) -> Option<T> {
        match read(value) {
            Ok(read) => Some(read),
            Err(wrong) => {
                self.fault_at(value, trail, Part::Value, wrong);
                None
            }
        }
    }

    /// A key of an entry of a list.
    pub(crate) fn of_entry<T>(
        &mut self,
        table: Table<'_>,
        name: &'static str,
        read: impl Fn(&Value) -> Read<T>,
    ) -> Option<T> {
        #[cfg(test)]
        self.read.insert(name);
        let value = table.dict.get(name)?.clone();
        self.accept(&value, &table.trail.key(name), read)
    }

    /// The same, or the default that those keys have.
    pub(crate) fn of_entry_or_default<T>(
        &mut self,
        keys: &'static [Key],
        table: Table<'_>,
        name: &'static str,
        read: impl Fn(&Value) -> Read<T>,
    ) -> T {
        self.of_entry(table, name, &read).unwrap_or_else(|| default(keys, name, read))
    }

    /// Notes a key that there is not.
    pub(crate) fn unknown(&mut self, keys: &'static [Key], value: &Value, trail: &Trail, name: &str) {
        let near = match value {
            Value::Dict(..) => keys::nearest_table(name).map(|near| format!("[{near}]")),
            _ => keys::nearest(keys, name).map(str::to_owned),
        };
        let advice = near.map_or_else(|| "remove it".to_owned(), |near| format!("did you mean {near}?"));
        let problem = "is no key of the configuration".to_owned();
        self.fault_at(value, trail, Part::Key, Wrong { problem, advice });
    }
}

fn default<T>(keys: &'static [Key], name: &str, read: impl Fn(&Value) -> Read<T>) -> T {
    let text = keys::find(keys, name).and_then(|key| match key.default {
        Fallback::Value(text) => Some(text),
        Fallback::Words(_) => None,
    });
    let value = text.map(|text| text.parse().unwrap_or_else(|_| Value::from(text)));
    let value = value.and_then(|value: Value| read(&value).ok());
    value.unwrap_or_else(|| unreachable!("{name} has a default that does"))
}
