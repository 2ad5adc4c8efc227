//! The tensor types of GGUF files: number, name and block size of each, also of those the engine cannot run.

/// One tensor type: values are stored in blocks of `block_len`, each `block_bytes` long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorType {
    /// Number in the file.
    pub id: u32,
    /// Name as llama.cpp prints it, upper case.
    pub name: &'static str,
    /// Values per block.
    pub block_len: u64,
    /// Bytes per block.
    pub block_bytes: u64,
}

const fn t(id: u32, name: &'static str, block_len: u64, block_bytes: u64) -> TensorType {
    TensorType {
        id,
        name,
        block_len,
        block_bytes,
    }
}

/// Every tensor type in use, by number. Numbers that are missing were retired.
#[rustfmt::skip]
pub const TENSOR_TYPES: &[TensorType] = &[
    t(0, "F32", 1, 4),
    t(1, "F16", 1, 2),
    t(2, "Q4_0", 32, 18),
    t(3, "Q4_1", 32, 20),
    t(6, "Q5_0", 32, 22),
    t(7, "Q5_1", 32, 24),
    t(8, "Q8_0", 32, 34),
    t(9, "Q8_1", 32, 36),
    t(10, "Q2_K", 256, 84),
    t(11, "Q3_K", 256, 110),
    t(12, "Q4_K", 256, 144),
    t(13, "Q5_K", 256, 176),
    t(14, "Q6_K", 256, 210),
    t(15, "Q8_K", 256, 292),
    t(16, "IQ2_XXS", 256, 66),
    t(17, "IQ2_XS", 256, 74),
    t(18, "IQ3_XXS", 256, 98),
    t(19, "IQ1_S", 256, 50),
    t(20, "IQ4_NL", 32, 18),
    t(21, "IQ3_S", 256, 110),
    t(22, "IQ2_S", 256, 82),
    t(23, "IQ4_XS", 256, 136),
    t(24, "I8", 1, 1),
    t(25, "I16", 1, 2),
    t(26, "I32", 1, 4),
    t(27, "I64", 1, 8),
    t(28, "F64", 1, 8),
    t(29, "IQ1_M", 256, 56),
    t(30, "BF16", 1, 2),
    t(34, "TQ1_0", 256, 54),
    t(35, "TQ2_0", 256, 66),
    t(39, "MXFP4", 32, 17),
    t(40, "NVFP4", 64, 36),
    t(41, "Q1_0", 128, 18),
    t(42, "Q2_0", 64, 18),
];

/// The type with number `id`, if it is known.
pub fn by_id(id: u32) -> Option<&'static TensorType> {
    TENSOR_TYPES.iter().find(|kind| kind.id == id)
}

/// The type called `name`, whatever the case.
pub fn by_name(name: &str) -> Option<&'static TensorType> {
    TENSOR_TYPES
        .iter()
        .find(|kind| kind.name.eq_ignore_ascii_case(name))
}

impl TensorType {
    /// Bytes of a tensor with `dims` (innermost first), or `None` where rows are not whole blocks or the size overflows.
    pub fn tensor_bytes(&self, dims: &[u64]) -> Option<u64> {
        let (&row_len, outer) = dims.split_first()?;
        if row_len % self.block_len != 0 {
            return None;
        }
        let row_bytes = (row_len / self.block_len).checked_mul(self.block_bytes)?;
        outer
            .iter()
            .try_fold(row_bytes, |bytes, &dim| bytes.checked_mul(dim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_finds_every_type() {
        assert!(TENSOR_TYPES.is_sorted_by(|a, b| a.id < b.id));
        for kind in TENSOR_TYPES {
            assert_eq!(by_id(kind.id), Some(kind));
            assert_eq!(by_name(&kind.name.to_lowercase()), Some(kind));
        }
        assert_eq!(by_id(4), None);
        assert_eq!(by_name("Q9_9"), None);
    }

    #[test]
    fn sizes_of_tensors() {
        let check = |name: &str, dims: &[u64], expect| {
            assert_eq!(
                by_name(name).unwrap().tensor_bytes(dims),
                expect,
                "{name} {dims:?}"
            );
        };
        check("F32", &[3], Some(12));
        check("F16", &[3, 2], Some(12));
        check("Q4_0", &[64, 3], Some(108));
        check("Q4_0", &[33, 32], None);
        check("Q6_K", &[512, 1, 2], Some(840));
        check("F32", &[1 << 40, 1 << 40], None);
        check("F64", &[u64::MAX], None);
        check("F32", &[], None);
    }
}
