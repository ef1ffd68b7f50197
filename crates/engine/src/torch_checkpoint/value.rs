//! The values of a pickle in a flat list. They refer to each other by id, so deep nesting and lists that contain
//! themselves cost no more than their bytes.

use serde_json::{Map, Number, json};

use super::budget::Budget;

/// Maximum depth of JSON output.
const MAX_DEPTH: usize = 64;

/// Bytes of a JSON value and its place in a list or object.
const JSON_BYTES: usize = 2 * size_of::<serde_json::Value>();

/// Index of a value.
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
    /// Keys and values, in order.
    Dict(Vec<(Id, Id)>),
    /// A known callable or class.
    Global(&'static str),
    /// A tensor's storage: kind, name in the archive, number of elements.
    Storage {
        kind: &'static str,
        key: Id,
        length: u64,
    },
    Tensor(Box<TensorView>),
    /// A NumPy type such as `f8`, little-endian.
    NumpyType(String),
}

/// A tensor as a view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView {
    pub storage: Id,
    /// In elements, like the strides.
    pub offset: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

#[derive(Debug)]
pub struct Values {
    pub all: Vec<Value>,
    /// The file's budget, for these values and everything derived from them.
    pub budget: Budget,
}

impl Values {
    pub fn node(&self, id: Id) -> Node<'_> {
        Node { values: self, id }
    }

    pub fn get(&self, id: Id) -> &Value {
        // Ids come from `push` only.
        self.all.get(id).unwrap_or(&Value::None)
    }
}

/// A value with access to the others.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    values: &'a Values,
    id: Id,
}

impl<'a> Node<'a> {
    pub fn value(self) -> &'a Value {
        self.values.get(self.id)
    }

    /// The value of a dictionary key.
    pub fn get(self, key: &str) -> Option<Node<'a>> {
        let found = self.entries().find(|(name, _)| name.text() == Some(key));
        found.map(|(_, value)| value)
    }

    /// The entries of a dictionary; empty for other values.
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

    /// The items of a list or tuple; empty for other values.
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

    /// Integers and floats.
    pub fn number(self) -> Option<f64> {
        match self.value() {
            Value::Int(int) => Some(*int as f64),
            Value::Float(float) => Some(*float),
            _ => None,
        }
    }

    /// As JSON. Tensors, values nested too deep (or in themselves) and numbers that JSON cannot represent become
    /// null.
    ///
    /// # Errors
    /// More than the file's [`Budget`] allows, because of repeated references.
    pub fn to_json(self) -> Result<serde_json::Value, String> {
        self.json(0)
    }

    fn json(self, depth: usize) -> Result<serde_json::Value, String> {
        let budget = &self.values.budget;
        budget.charge(JSON_BYTES)?;
        if depth > MAX_DEPTH {
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
        // Quotes are escaped again on each level.
        budget.charge(key.len())?;
        Ok(key)
    }
}
