//! Results of the few callables that weights need. No code of a file is run.

use super::value::{Id, TensorView, Value, Values};

/// The allowed callables and classes, as module and name.
pub(super) const GLOBALS: [&str; 25] = [
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch FloatStorage",
    "torch DoubleStorage",
    "torch HalfStorage",
    "torch BFloat16Storage",
    "torch LongStorage",
    "torch IntStorage",
    "torch ShortStorage",
    "torch CharStorage",
    "torch ByteStorage",
    "torch BoolStorage",
    "torch device",
    "torch Size",
    "numpy dtype",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray scalar",
    "_codecs encode",
    "builtins set",
    "__builtin__ set",
    "builtins bytearray",
    "builtins complex",
    "pathlib PosixPath",
    "pathlib WindowsPath",
];

/// Maximum number of axes (PyTorch's own limit).
const MAX_AXES: usize = 64;

/// Maximum length of NumPy type names, such as `f8`.
const MAX_TYPE_BYTES: usize = 16;

pub(super) enum Called {
    New(Value),
    /// One of its arguments, unchanged.
    Argument(Id),
}

/// Calls `name` (module and name) with `arguments`. Everything that it copies is charged to the budget first: the
/// same arguments may be passed to any number of calls.
///
/// # Errors
/// An unknown callable, invalid arguments, or an exhausted budget.
pub(super) fn call_known(name: &str, arguments: &[Id], values: &Values) -> Result<Called, String> {
    let of = |index: usize| arguments.get(index).map(|id| values.get(*id));
    let given = arguments.first().map(|id| Called::Argument(*id));
    Ok(Called::New(match name {
        "collections OrderedDict" => match of(0) {
            None => Value::Dict(Vec::new()),
            Some(Value::List(pairs)) => Value::Dict(pairs_of(pairs, values)?),
            Some(_) => return Err("a dictionary of unknown contents".to_owned()),
        },
        "torch._utils _rebuild_tensor_v2" => tensor(arguments, values)?,
        "torch._utils _rebuild_parameter" | "torch Size" => {
            return given.ok_or_else(|| "a call without arguments".to_owned());
        }
        "torch device" => return Ok(given.unwrap_or(Called::New(Value::None))),
        "numpy dtype" => match of(0) {
            Some(Value::Text(kind)) if kind.len() <= MAX_TYPE_BYTES => {
                Value::NumpyType(kind.clone())
            }
            _ => return Err("a NumPy type without a name".to_owned()),
        },
        "numpy.core.multiarray scalar" | "numpy._core.multiarray scalar" => {
            numpy_scalar(of(0), of(1))?
        }
        "_codecs encode" => match of(0) {
            // Latin-1: a character is a byte.
            Some(Value::Text(text)) => {
                values.budget.charge(text.len())?;
                Value::Bytes(text.chars().map(|c| c as u8).collect())
            }
            _ => return Err("bytes from something that is not text".to_owned()),
        },
        "builtins set" | "__builtin__ set" => {
            return Ok(given.unwrap_or(Called::New(Value::List(Vec::new()))));
        }
        "pathlib PosixPath" | "pathlib WindowsPath" => path(arguments, values)?,
        other => {
            return Err(format!(
                "it calls {}, which is not allowed",
                other.replace(' ', ".")
            ));
        }
    }))
}

/// The pairs of a list of tuples.
fn pairs_of(list: &[Id], values: &Values) -> Result<Vec<(Id, Id)>, String> {
    let bytes = list.len().saturating_mul(size_of::<(Id, Id)>());
    values.budget.charge(bytes)?;
    let pair = |id: &Id| match values.get(*id) {
        Value::Tuple(pair) | Value::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
        _ => Err("a dictionary whose entries are not pairs".to_owned()),
    };
    list.iter().map(pair).collect()
}

fn path(parts: &[Id], values: &Values) -> Result<Value, String> {
    // The length of each part, plus 1 for the separator.
    values.budget.charge(parts.len())?;
    let texts = || parts.iter().filter_map(|id| values.node(*id).text());
    let length = texts().fold(0usize, |sum, text| sum.saturating_add(text.len()));
    values.budget.charge(length)?;
    let mut joined = String::with_capacity(length + parts.len());
    for (index, text) in texts().enumerate() {
        joined += if index > 0 { "/" } else { "" };
        joined += text;
    }
    Ok(Value::Text(joined))
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, …)`.
fn tensor(arguments: &[Id], values: &Values) -> Result<Value, String> {
    let [storage, offset, shape, strides, ..] = *arguments else {
        return Err("a tensor without a shape".to_owned());
    };
    let natural = |id: Id| match values.get(id) {
        Value::Int(value) => usize::try_from(*value).map_err(|_| "a negative size".to_owned()),
        _ => Err("a tensor whose shape is not numeric".to_owned()),
    };
    let all = |id: Id| -> Result<Vec<usize>, String> {
        match values.get(id) {
            Value::Tuple(items) if items.len() > MAX_AXES => Err(format!(
                "a tensor of {} axes, expected at most {MAX_AXES}",
                items.len()
            )),
            Value::Tuple(items) => {
                values.budget.charge(items.len() * size_of::<usize>())?;
                items.iter().map(|id| natural(*id)).collect()
            }
            _ => Err("a tensor whose shape is not numeric".to_owned()),
        }
    };
    if !matches!(values.get(storage), Value::Storage { .. }) {
        return Err("a tensor without a storage".to_owned());
    }
    values.budget.charge(size_of::<TensorView>())?;
    Ok(Value::Tensor(Box::new(TensorView {
        storage,
        offset: natural(offset)? as u64,
        shape: all(shape)?,
        strides: all(strides)?,
    })))
}

fn numpy_scalar(kind: Option<&Value>, bytes: Option<&Value>) -> Result<Value, String> {
    let (Some(Value::NumpyType(kind)), Some(Value::Bytes(bytes))) = (kind, bytes) else {
        return Err("a NumPy scalar without type or bytes".to_owned());
    };
    fn read<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
        bytes
            .try_into()
            .map_err(|_| "a NumPy scalar whose size differs from its type".to_owned())
    }
    Ok(match kind.as_str() {
        "f8" => Value::Float(f64::from_le_bytes(read(bytes)?)),
        "f4" => Value::Float(f64::from(f32::from_le_bytes(read(bytes)?))),
        "i8" => Value::Int(i64::from_le_bytes(read(bytes)?)),
        "i4" => Value::Int(i64::from(i32::from_le_bytes(read(bytes)?))),
        "i2" => Value::Int(i64::from(i16::from_le_bytes(read(bytes)?))),
        "u1" => Value::Int(i64::from(read::<1>(bytes)?[0])),
        "b1" => Value::Bool(read::<1>(bytes)? != [0]),
        other => {
            return Err(format!(
                "a NumPy scalar of unknown type {}",
                other.escape_debug()
            ));
        }
    })
}
