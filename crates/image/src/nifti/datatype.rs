//! NIfTI codes of voxel types, and decoding of voxels to `f64`.

use super::raw::ByteOrder;
use crate::formats::VoxelType;

/// Receives decoded voxels in file order.
pub(super) trait VoxelSink {
    fn take(&mut self, values: impl ExactSizeIterator<Item = f64> + Clone);
}

impl VoxelType {
    /// The type of the header's `datatype`; the error names unsupported types.
    pub(super) fn from_code(code: i16) -> Result<Self, String> {
        let refused = match code {
            2 => return Ok(Self::U8),
            4 => return Ok(Self::I16),
            8 => return Ok(Self::I32),
            16 => return Ok(Self::F32),
            64 => return Ok(Self::F64),
            256 => return Ok(Self::I8),
            512 => return Ok(Self::U16),
            768 => return Ok(Self::U32),
            1024 => return Ok(Self::I64),
            1280 => return Ok(Self::U64),
            0 => "unknown voxels",
            1 => "one-bit voxels",
            32 => "complex64 voxels",
            128 => "RGB colours",
            1536 => "float128 voxels",
            1792 => "complex128 voxels",
            2048 => "complex256 voxels",
            2304 => "RGBA colours",
            _ => {
                return Err(format!(
                    "datatype {code} is not a NIfTI code; expected an integer or real type of 8 to 64 \
                     bits; the header is damaged"
                ));
            }
        };
        Err(format!(
            "holds {refused} (datatype {code}); expected one integer or real number of 8 to 64 bits \
             per voxel; convert the image first"
        ))
    }

    /// The code for the header's `datatype`.
    pub(super) fn code(self) -> i16 {
        match self {
            Self::U8 => 2,
            Self::I16 => 4,
            Self::I32 => 8,
            Self::F32 => 16,
            Self::F64 => 64,
            Self::I8 => 256,
            Self::U16 => 512,
            Self::U32 => 768,
            Self::I64 => 1024,
            Self::U64 => 1280,
        }
    }

    /// Decodes the voxels in `bytes` (a whole number of voxels) into `sink`; with `scaling` (slope, intercept), scaled.
    pub(super) fn decode(
        self,
        bytes: &[u8],
        order: ByteOrder,
        scaling: Option<(f64, f64)>,
        sink: &mut impl VoxelSink,
    ) {
        macro_rules! numbers {
            ($number:ty) => {
                match order {
                    ByteOrder::Little => {
                        decode_with(bytes, scaling, sink, |b| <$number>::from_le_bytes(b) as f64)
                    }
                    ByteOrder::Big => {
                        decode_with(bytes, scaling, sink, |b| <$number>::from_be_bytes(b) as f64)
                    }
                }
            };
        }
        match self {
            Self::U8 => numbers!(u8),
            Self::I8 => numbers!(i8),
            Self::U16 => numbers!(u16),
            Self::I16 => numbers!(i16),
            Self::U32 => numbers!(u32),
            Self::I32 => numbers!(i32),
            Self::U64 => numbers!(u64),
            Self::I64 => numbers!(i64),
            Self::F32 => numbers!(f32),
            Self::F64 => decode_with(bytes, scaling, sink, |b| match order {
                ByteOrder::Little => f64::from_le_bytes(b),
                ByteOrder::Big => f64::from_be_bytes(b),
            }),
        }
    }
}

fn decode_with<const N: usize>(
    bytes: &[u8],
    scaling: Option<(f64, f64)>,
    sink: &mut impl VoxelSink,
    number: impl Fn([u8; N]) -> f64,
) {
    let values = bytes.as_chunks::<N>().0.iter().map(|voxel| number(*voxel));
    match scaling {
        None => sink.take(values),
        Some((slope, intercept)) => sink.take(values.map(|value| value * slope + intercept)),
    }
}
