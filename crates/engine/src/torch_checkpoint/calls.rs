//! What the few callables that weights need make of their arguments; none of them is code of a file.

use super::value::{Id, TensorView, Value, Values};

/// The result of the callable `name` (module and name) for `arguments`.
///
/// # Errors
/// The callable is not known, or it is not made for these arguments.
pub(super) fn called(name: &str, arguments: &[Id], values: &Values) -> Result<Value, String> {
    let of = |index: usize| arguments.get(index).map(|id| values.get(*id));
    Ok(match name {
        "collections OrderedDict" => match of(0) {
            None => Value::Dict(Vec::new()),
            Some(Value::List(pairs)) => Value::Dict(pairs_of(pairs, values)?),
            Some(_) => return Err("a dictionary of something unknown".to_owned()),
        },
        "torch._utils _rebuild_tensor_v2" => tensor(arguments, values)?,
        "torch._utils _rebuild_parameter" | "torch Size" => {
            of(0).cloned().ok_or("a call without arguments")?
        }
        "torch device" => of(0).cloned().unwrap_or(Value::None),
        "numpy dtype" => match of(0) {
            Some(Value::Text(kind)) => Value::NumpyType(kind.clone()),
            _ => return Err("a NumPy type without a name".to_owned()),
        },
        "numpy.core.multiarray scalar" | "numpy._core.multiarray scalar" => {
            numpy_scalar(of(0), of(1))?
        }
        "_codecs encode" => match of(0) {
            // Latin-1: a character is a byte.
            Some(Value::Text(text)) => Value::Bytes(text.chars().map(|c| c as u8).collect()),
            _ => return Err("bytes of what is no text".to_owned()),
        },
        "builtins set" | "__builtin__ set" => of(0).cloned().unwrap_or(Value::List(Vec::new())),
        "pathlib PosixPath" | "pathlib WindowsPath" => path(arguments, values),
        other => {
            return Err(format!(
                "calls {}, which weights do not need",
                other.replace(' ', ".")
            ));
        }
    })
}

/// The pairs of a list of tuples.
fn pairs_of(list: &[Id], values: &Values) -> Result<Vec<(Id, Id)>, String> {
    let pair = |id: &Id| match values.get(*id) {
        Value::Tuple(pair) | Value::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
        _ => Err("a dictionary of what are no pairs".to_owned()),
    };
    list.iter().map(pair).collect()
}

fn path(parts: &[Id], values: &Values) -> Value {
    let texts = parts.iter().filter_map(|id| values.node(*id).text());
    Value::Text(texts.collect::<Vec<_>>().join("/"))
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, …)`.
fn tensor(arguments: &[Id], values: &Values) -> Result<Value, String> {
    let [storage, offset, shape, strides, ..] = *arguments else {
        return Err("a tensor without a shape".to_owned());
    };
    let natural = |id: Id| match values.get(id) {
        Value::Int(value) => u64::try_from(*value).map_err(|_| "a negative size".to_owned()),
        _ => Err("a tensor whose shape is no numbers".to_owned()),
    };
    let all = |id: Id| match values.get(id) {
        Value::Tuple(items) => items.iter().map(|id| natural(*id)).collect(),
        _ => Err("a tensor whose shape is no numbers".to_owned()),
    };
    if !matches!(values.get(storage), Value::Storage { .. }) {
        return Err("a tensor without a storage".to_owned());
    }
    Ok(Value::Tensor(TensorView {
        storage,
        offset: natural(offset)?,
        shape: all(shape)?,
        strides: all(strides)?,
    }))
}

fn numpy_scalar(kind: Option<&Value>, bytes: Option<&Value>) -> Result<Value, String> {
    let (Some(Value::NumpyType(kind)), Some(Value::Bytes(bytes))) = (kind, bytes) else {
        return Err("a NumPy number without type or bytes".to_owned());
    };
    fn read<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
        bytes
            .try_into()
            .map_err(|_| "a NumPy number of another size than its type".to_owned())
    }
    Ok(match kind.as_str() {
        "f8" => Value::Float(f64::from_le_bytes(read(bytes)?)),
        "f4" => Value::Float(f64::from(f32::from_le_bytes(read(bytes)?))),
        "i8" => Value::Int(i64::from_le_bytes(read(bytes)?)),
        "i4" => Value::Int(i64::from(i32::from_le_bytes(read(bytes)?))),
        "i2" => Value::Int(i64::from(i16::from_le_bytes(read(bytes)?))),
        "u1" => Value::Int(i64::from(read::<1>(bytes)?[0])),
        "b1" => Value::Bool(read::<1>(bytes)? != [0]),
        other => return Err(format!("a NumPy number of type {other}")),
    })
}
