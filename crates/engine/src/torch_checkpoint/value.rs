//! What a pickle holds, kept flat: values refer to each other by place, so that no nesting, however deep, and no list that
//! holds itself costs more than its bytes.

use serde_json::{Map, Number, json};

use super::budget::Budget;

/// Nothing of interest is nested deeper.
const DEEPEST: usize = 64;

/// A value of JSON, and its place in a list or an object.
const JSON_BYTES: usize = 2 * size_of::<serde_json::Value>();

/// Where a value lies.
pub type Id = usize;

/// One value of a pickle.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Lists and sets.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// Keys and values in order.
    Dict(Vec<(Id, Id)>),
    /// A known callable or class, by name.
    Global(&'static str),
    /// A tensor's elements: kind of storage, name in the archive, how many.
    Storage {
        kind: &'static str,
        key: Id,
        length: u64,
    },
    Tensor(Box<TensorView>),
    /// A NumPy type such as `f8`, little-endian.
    NumpyType(String),
}

/// A tensor as part of a storage.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView {
    pub storage: Id,
    /// In elements, as strides.
    pub offset: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// All values of a pickle.
#[derive(Debug)]
pub struct Values {
    pub all: Vec<Value>,
    /// Of the file, for these values and all that is made of them.
    pub budget: Budget,
}

impl Values {
    pub fn node(&self, id: Id) -> Node<'_> {
        Node { values: self, id }
    }

    pub fn get(&self, id: Id) -> &Value {
        // Ids are made by `add` alone.
        self.all.get(id).unwrap_or(&Value::None)
    }
}

/// A value among the others.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    values: &'a Values,
    id: Id,
}

impl<'a> Node<'a> {
    pub fn value(self) -> &'a Value {
        self.values.get(self.id)
    }

    /// The value of a dictionary's key.
    pub fn get(self, key: &str) -> Option<Node<'a>> {
        let found = self.entries().find(|(name, _)| name.text() == Some(key));
        found.map(|(_, value)| value)
    }

    /// Keys and values of a dictionary; nothing of anything else.
    pub fn entries(self) -> impl Iterator<Item = (Node<'a>, Node<'a>)> {
        let entries = match self.value() {
            Value::Dict(entries) => entries.as_slice(),
            _ => &[],
        };
        let node = move |id: &Id| self.values.node(*id);
        entries
            .iter()
            .map(move |(key, value)| (node(key), node(value)))
    }

    /// The values of a list or tuple; nothing of anything else.
    pub fn items(self) -> impl Iterator<Item = Node<'a>> {
        let items = match self.value() {
            Value::List(items) | Value::Tuple(items) => items.as_slice(),
            _ => &[],
        };
        items.iter().map(move |id| self.values.node(*id))
    }

    pub fn text(self) -> Option<&'a str> {
        match self.value() {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn int(self) -> Option<i64> {
        match self.value() {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// Integers and reals.
    pub fn number(self) -> Option<f64> {
        match self.value() {
            Value::Int(int) => Some(*int as f64),
            Value::Float(float) => Some(*float),
            _ => None,
        }
    }

    /// As JSON; tensors and what is nested too deep (or in itself) are null, numbers that JSON has not too.
    ///
    /// # Errors
    /// More than the file's [`Budget`] allows: values that are named again and again.
    pub fn to_json(self) -> Result<serde_json::Value, String> {
        self.json(0)
    }

    fn json(self, depth: usize) -> Result<serde_json::Value, String> {
        let budget = &self.values.budget;
        budget.charge(JSON_BYTES)?;
        if depth > DEEPEST {
            return Ok(serde_json::Value::Null);
        }
        Ok(match self.value() {
            Value::Bool(value) => json!(value),
            Value::Int(value) => json!(value),
            Value::Float(value) => {
                Number::from_f64(*value).map_or(serde_json::Value::Null, serde_json::Value::Number)
            }
            Value::Text(text) => {
                budget.charge(text.len())?;
                json!(text)
            }
            Value::List(_) | Value::Tuple(_) => {
                let items: Result<Vec<_>, _> =
                    self.items().map(|item| item.json(depth + 1)).collect();
                serde_json::Value::Array(items?)
            }
            Value::Dict(_) => {
                let mut map = Map::new();
                for (key, value) in self.entries() {
                    let key = key.json_key(depth + 1)?;
                    map.insert(key, value.json(depth + 1)?);
                }
                serde_json::Value::Object(map)
            }
            _ => serde_json::Value::Null,
        })
    }

    fn json_key(self, depth: usize) -> Result<String, String> {
        let budget = &self.values.budget;
        if let Value::Text(text) = self.value() {
            budget.charge(text.len())?;
            return Ok(text.clone());
        }
        let key = self.json(depth)?.to_string();
        // Quotes are escaped once more on each level.
        budget.charge(key.len())?;
        Ok(key)
    }
}
