//! The header as bytes: the offset of each field in NIfTI-1 and NIfTI-2, with getters and setters.

/// The two versions of the format; only their headers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 348 bytes, 16-bit dimensions, 32-bit floats.
    Nifti1,
    /// 540 bytes, 64-bit dimensions and floats.
    Nifti2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

/// Byte offsets of the fields, from `nifti1.h` and `nifti2.h`.
#[derive(Debug)]
pub(super) struct Layout {
    pub dim: usize,
    pub datatype: usize,
    pub bitpix: usize,
    pub pixdim: usize,
    pub vox_offset: usize,
    pub scl_slope: usize,
    pub scl_inter: usize,
    pub cal_max: usize,
    pub cal_min: usize,
    pub descrip: usize,
    pub aux_file: usize,
    pub qform_code: usize,
    pub sform_code: usize,
    /// b, c, d, then the offsets x, y, z.
    pub quatern: usize,
    /// Three rows of four.
    pub srow: usize,
    pub xyzt_units: usize,
    pub intent_p: usize,
    pub intent_code: usize,
    pub intent_name: usize,
    /// `glmax` and `glmin`, 32 bits each; absent in NIfTI-2.
    pub gl: Option<usize>,
}

const NIFTI1: Layout = Layout {
    dim: 40,
    intent_p: 56,
    intent_code: 68,
    datatype: 70,
    bitpix: 72,
    pixdim: 76,
    vox_offset: 108,
    scl_slope: 112,
    scl_inter: 116,
    xyzt_units: 123,
    cal_max: 124,
    cal_min: 128,
    gl: Some(140),
    descrip: 148,
    aux_file: 228,
    qform_code: 252,
    sform_code: 254,
    quatern: 256,
    srow: 280,
    intent_name: 328,
};

const NIFTI2: Layout = Layout {
    datatype: 12,
    bitpix: 14,
    dim: 16,
    intent_p: 80,
    pixdim: 104,
    vox_offset: 168,
    scl_slope: 176,
    scl_inter: 184,
    cal_max: 192,
    cal_min: 200,
    descrip: 240,
    aux_file: 320,
    qform_code: 344,
    sform_code: 348,
    quatern: 352,
    srow: 400,
    xyzt_units: 500,
    intent_code: 504,
    intent_name: 508,
    gl: None,
};

pub(super) const DESCRIP_BYTES: usize = 80;
pub(super) const AUX_FILE_BYTES: usize = 24;
pub(super) const INTENT_NAME_BYTES: usize = 16;

impl Version {
    /// Bytes of the header.
    pub(super) fn header_bytes(self) -> usize {
        match self {
            Self::Nifti1 => 348,
            Self::Nifti2 => 540,
        }
    }

    /// The earliest offset of the voxels: after the header and the four-byte extension flag.
    pub(super) fn first_voxel_byte(self) -> u64 {
        self.header_bytes() as u64 + 4
    }

    /// Bytes per floating-point number in the header.
    pub(super) fn real_bytes(self) -> usize {
        match self {
            Self::Nifti1 => 4,
            Self::Nifti2 => 8,
        }
    }
}

/// A header's bytes, with typed access to the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawHeader {
    /// As long as the version's header, by construction.
    bytes: Vec<u8>,
    order: ByteOrder,
    version: Version,
}

impl RawHeader {
    /// `bytes` must be as long as the version's header; `None` if not.
    pub(super) fn new(bytes: Vec<u8>, order: ByteOrder, version: Version) -> Option<Self> {
        (bytes.len() == version.header_bytes()).then_some(Self {
            bytes,
            order,
            version,
        })
    }

    /// A header with only its size and magic set.
    pub(super) fn blank(version: Version, order: ByteOrder) -> Self {
        let mut header = Self {
            bytes: vec![0; version.header_bytes()],
            order,
            version,
        };
        match version {
            Version::Nifti1 => {
                header.set(0, 348i32.to_le_bytes());
                header.put(344, *b"n+1\0");
            }
            Version::Nifti2 => {
                header.set(0, 540i32.to_le_bytes());
                header.put(4, *b"n+2\0\r\n\x1a\n");
            }
        }
        header
    }

    /// The header as NIfTI-1, with floats rounded to 32 bits and without slice timing. `None` for NIfTI-1 headers, and
    /// for what NIfTI-1 cannot represent: axes of more than 32767 voxels, scalings that need 64 bits, extensions of
    /// 16 MiB.
    pub(super) fn as_nifti1(&self) -> Option<Self> {
        if self.version == Version::Nifti1 {
            return None;
        }
        let (from, to) = (self.layout(), &NIFTI1);
        let mut raw = Self::blank(Version::Nifti1, self.order);
        for index in 0..8 {
            raw.set_dim(index, i16::try_from(self.dim(index)).ok()?.into());
        }
        raw.set_short(to.datatype, self.short(from.datatype));
        raw.set_short(to.bitpix, self.short(from.bitpix));
        for (at, to, count) in [
            (from.pixdim, to.pixdim, 8),
            (from.intent_p, to.intent_p, 3),
            (from.scl_slope, to.scl_slope, 1),
            (from.scl_inter, to.scl_inter, 1),
            (from.cal_max, to.cal_max, 1),
            (from.cal_min, to.cal_min, 1),
            (from.quatern, to.quatern, 6),
            (from.srow, to.srow, 12),
        ] {
            (0..count).for_each(|index| raw.set_real(to, index, self.real(at, index)));
        }
        let kept = |at: usize, to: usize| raw.real(to, 0).total_cmp(&self.real(at, 0)).is_eq();
        // A NaN slope means no scaling.
        let same = self.real(from.scl_slope, 0).is_nan()
            || kept(from.scl_slope, to.scl_slope) && kept(from.scl_inter, to.scl_inter);
        if !same {
            return None;
        }
        for (at, to) in [
            (from.qform_code, to.qform_code),
            (from.sform_code, to.sform_code),
            (from.intent_code, to.intent_code),
        ] {
            raw.set_code(to, i16::try_from(self.code(at)).ok()?);
        }
        raw.set_xyzt_units(u8::try_from(self.xyzt_units()).ok()?);
        for (at, to, length) in [
            (from.descrip, to.descrip, DESCRIP_BYTES),
            (from.aux_file, to.aux_file, AUX_FILE_BYTES),
            (from.intent_name, to.intent_name, INTENT_NAME_BYTES),
        ] {
            raw.bytes[to..to + length].copy_from_slice(&self.bytes[at..at + length]);
        }
        let between = self.vox_offset() - Version::Nifti2.header_bytes() as f64;
        raw.set_extension_bytes(between as usize);
        let offset = Version::Nifti1.header_bytes() as f64 + between;
        (raw.vox_offset() == offset).then_some(raw)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn order(&self) -> ByteOrder {
        self.order
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn layout(&self) -> &'static Layout {
        match self.version {
            Version::Nifti1 => &NIFTI1,
            Version::Nifti2 => &NIFTI2,
        }
    }

    /// `dim[index]`.
    pub(super) fn dim(&self, index: usize) -> i64 {
        let at = self.layout().dim;
        match self.version {
            Version::Nifti1 => self.short(at + 2 * index).into(),
            Version::Nifti2 => i64::from_le_bytes(self.get(at + 8 * index)),
        }
    }

    /// Sets `dim[index]`; values beyond 16 bits need NIfTI-2.
    pub(super) fn set_dim(&mut self, index: usize, value: i64) {
        let at = self.layout().dim;
        match self.version {
            Version::Nifti1 => self.set_short(at + 2 * index, value as i16),
            Version::Nifti2 => self.set(at + 8 * index, value.to_le_bytes()),
        }
    }

    /// A field of 16 bits in both versions.
    pub(super) fn short(&self, at: usize) -> i16 {
        i16::from_le_bytes(self.get(at))
    }

    pub(super) fn set_short(&mut self, at: usize, value: i16) {
        self.set(at, value.to_le_bytes());
    }

    /// A field of 32 bits in both versions.
    pub(super) fn int(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.get(at))
    }

    /// A code field: 16 bits in NIfTI-1, 32 in NIfTI-2.
    pub(super) fn code(&self, at: usize) -> i32 {
        match self.version {
            Version::Nifti1 => self.short(at).into(),
            Version::Nifti2 => i32::from_le_bytes(self.get(at)),
        }
    }

    pub(super) fn set_code(&mut self, at: usize, value: i16) {
        match self.version {
            Version::Nifti1 => self.set_short(at, value),
            Version::Nifti2 => self.set(at, i32::from(value).to_le_bytes()),
        }
    }

    /// The unit codes of space (bits 0–2) and time (bits 3–5).
    pub(super) fn xyzt_units(&self) -> i32 {
        let at = self.layout().xyzt_units;
        match self.version {
            Version::Nifti1 => self.bytes[at].into(),
            Version::Nifti2 => i32::from_le_bytes(self.get(at)),
        }
    }

    pub(super) fn set_xyzt_units(&mut self, units: u8) {
        let at = self.layout().xyzt_units;
        match self.version {
            Version::Nifti1 => self.bytes[at] = units,
            Version::Nifti2 => self.set(at, i32::from(units).to_le_bytes()),
        }
    }

    /// Element `index` of the floats at offset `at`.
    pub(super) fn real(&self, at: usize, index: usize) -> f64 {
        let at = at + self.version.real_bytes() * index;
        match self.version {
            Version::Nifti1 => f32::from_le_bytes(self.get(at)).into(),
            Version::Nifti2 => f64::from_le_bytes(self.get(at)),
        }
    }

    /// Sets element `index` of the floats at offset `at`; NIfTI-1 rounds to 32 bits.
    pub(super) fn set_real(&mut self, at: usize, index: usize, value: f64) {
        let at = at + self.version.real_bytes() * index;
        match self.version {
            Version::Nifti1 => self.set(at, (value as f32).to_le_bytes()),
            Version::Nifti2 => self.set(at, value.to_le_bytes()),
        }
    }

    /// The stored byte offset of the voxels; a float in NIfTI-1.
    pub(super) fn vox_offset(&self) -> f64 {
        let at = self.layout().vox_offset;
        match self.version {
            Version::Nifti1 => self.real(at, 0),
            Version::Nifti2 => i64::from_le_bytes(self.get(at)) as f64,
        }
    }

    /// Sets the voxel offset to just after the header and `bytes` of extensions (including the four-byte flag).
    pub(super) fn set_extension_bytes(&mut self, bytes: usize) {
        let at = self.layout().vox_offset;
        let offset = (self.version.header_bytes() + bytes) as u64;
        match self.version {
            Version::Nifti1 => self.set_real(at, 0, offset as f64),
            Version::Nifti2 => self.set(at, offset.to_le_bytes()),
        }
    }

    /// The text of a field up to its first NUL; control and invalid characters are replaced.
    pub(super) fn text(&self, at: usize, length: usize) -> String {
        let field = &self.bytes[at..at + length];
        let text = field.split(|byte| *byte == 0).next().unwrap_or(field);
        String::from_utf8_lossy(text)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect::<String>()
            .trim()
            .to_owned()
    }

    /// Sets a text field: `text` truncated to the field's length, then NULs.
    pub(super) fn set_text(&mut self, at: usize, length: usize, text: &str) {
        let field = &mut self.bytes[at..at + length];
        field.fill(0);
        for (target, byte) in field.iter_mut().zip(text.bytes()) {
            *target = byte;
        }
    }

    /// Fills `length` bytes with zeros, which mean 0 in every field type.
    pub(super) fn clear(&mut self, at: usize, length: usize) {
        self.bytes[at..at + length].fill(0);
    }

    /// The bytes at `at`, as if the header were little-endian.
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes: [u8; N] = std::array::from_fn(|i| self.bytes[at + i]);
        if self.order == ByteOrder::Big {
            bytes.reverse();
        }
        bytes
    }

    /// Stores little-endian bytes in the header's own order.
    fn set<const N: usize>(&mut self, at: usize, mut bytes: [u8; N]) {
        if self.order == ByteOrder::Big {
            bytes.reverse();
        }
        self.put(at, bytes);
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.bytes[at..at + N].copy_from_slice(&bytes);
    }
}
