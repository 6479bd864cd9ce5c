//! How weights are stored: tensor types with their block sizes, and the names of whole-file quantisations.

/// A tensor's storage type by its number in the file. Numbers this crate does not know are kept, so a file with a newer
/// type can still be described; only its size is then unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorType(pub u32);

impl TensorType {
    /// IEEE single.
    pub const F32: Self = Self(0);
    /// IEEE half.
    pub const F16: Self = Self(1);

    /// Weights per block and bytes per block. The table is that of `ggml_type` in ggml's `ggml.h` and the block
    /// structures in `ggml-common.h`.
    #[must_use]
    pub fn block(self) -> Option<(u64, u64)> {
        Some(match self.0 {
            0 | 26 => (1, 4),
            1 | 25 | 30 => (1, 2),
            24 => (1, 1),
            27 | 28 => (1, 8),
            2 | 20 => (32, 18),
            3 => (32, 20),
            6 => (32, 22),
            7 => (32, 24),
            8 => (32, 34),
            9 => (32, 36),
            39 => (32, 17),
            10 => (256, 84),
            11 | 21 => (256, 110),
            12 => (256, 144),
            13 => (256, 176),
            14 => (256, 210),
            15 => (256, 292),
            16 | 35 => (256, 66),
            17 => (256, 74),
            18 => (256, 98),
            19 => (256, 50),
            22 => (256, 82),
            23 => (256, 136),
            29 => (256, 56),
            34 => (256, 54),
            _ => return None,
        })
    }

    /// Bytes of a tensor with these dimensions (innermost first), `Ok(None)` for a type of unknown block size.
    ///
    /// # Errors
    /// `Err(())` where the product overflows or a row is not a whole number of blocks.
    pub(crate) fn bytes(self, dimensions: &[u64]) -> Result<Option<u64>, ()> {
        let elements = dimensions.iter().try_fold(1_u64, |product, &d| product.checked_mul(d)).ok_or(())?;
        let Some((weights, bytes)) = self.block() else { return Ok(None) };
        let row = dimensions.first().copied().unwrap_or(1);
        if row % weights != 0 {
            return Err(());
        }
        (elements / weights).checked_mul(bytes).map(Some).ok_or(())
    }
}

/// The name people use for a `general.file_type` number, such as `Q4_K_M`. The table is that of `llama_ftype` in
/// llama.cpp's `llama.h`.
#[must_use]
pub fn file_type_name(number: u64) -> Option<&'static str> {
    /// llama.cpp sets this bit where it guessed the type from the tensors.
    const GUESSED: u64 = 1024;
    Some(match number & !GUESSED {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_block_table() {
        assert_eq!(TensorType::F32.bytes(&[3, 5]), Ok(Some(60)));
        assert_eq!(TensorType(12).bytes(&[4096, 4096]), Ok(Some(4096 * 4096 / 256 * 144)));
        assert_eq!(TensorType(8).bytes(&[64]), Ok(Some(68)));
    }

    #[test]
    fn a_row_that_is_not_whole_blocks_is_refused() {
        assert_eq!(TensorType(12).bytes(&[100, 256]), Err(()));
    }

    #[test]
    fn an_overflowing_shape_is_refused_and_an_unknown_type_has_no_size() {
        assert_eq!(TensorType::F32.bytes(&[u64::MAX, 2]), Err(()));
        assert_eq!(TensorType::F32.bytes(&[u64::MAX]), Err(()));
        assert_eq!(TensorType(9999).bytes(&[7]), Ok(None));
    }

    #[test]
    fn a_guessed_file_type_has_the_same_name() {
        assert_eq!(file_type_name(15), Some("Q4_K_M"));
        assert_eq!(file_type_name(15 | 1024), Some("Q4_K_M"));
        assert_eq!(file_type_name(999), None);
    }
}
