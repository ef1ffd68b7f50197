//! Types of stored voxels.

/// The numeric voxel types that ctseg reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoxelType {
    /// Unsigned, 8 bits: label maps and masks.
    U8,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 16 bits: label maps with labels above 255.
    U16,
    /// Signed, 16 bits: most CT.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// IEEE float, 32 bits.
    F32,
    /// IEEE float, 64 bits.
    F64,
}

impl VoxelType {
    /// Bytes per voxel.
    pub fn bytes(self) -> u8 {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The NumPy name.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::U64 => "uint64",
            Self::I64 => "int64",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// The range of an integer type: the first value included, the second excluded; `None` for floats.
    pub(crate) fn integer_range(self) -> Option<(f64, f64)> {
        let bits = i32::from(self.bytes()) * 8;
        match self {
            Self::F32 | Self::F64 => None,
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Some((0.0, 2f64.powi(bits))),
            Self::I8 | Self::I16 | Self::I32 | Self::I64 => {
                Some((-(2f64.powi(bits - 1)), 2f64.powi(bits - 1)))
            }
        }
    }
}
