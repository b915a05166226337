//! How many numbers stand for a token: in a model, and in what a projector gives it.
//!
//! A projector of another width was made for another model, and llama.cpp refuses the pair. It knows a
//! projector's width by the shape of one tensor, another for each kind (`clip_n_mmproj_embd` in
//! `tools/mtmd/clip.cpp`); the key `projection_dim` tells it in new files only.

use super::Header;

/// The kinds of projectors, the tensor that tells, and which of its dimensions. Of kinds with several
/// layers of width for one token, the width of one.
const PROJECTORS: [(&str, &str, usize); 33] = [
    ("adapter", "adapter.linear.dense_4h_to_h.weight", 1),
    ("cogvlm", "mm.down.weight", 1),
    ("deepseekocr", "mm.model.fc.weight", 1),
    ("deepseekocr2", "mm.model.fc.weight", 1),
    ("dots_ocr", "mm.2.weight", 1),
    ("exaone4_5", "mm.2.bias", 0),
    ("gemma3", "mm.input_projection.weight", 0),
    ("gemma3nv", "mm.input_projection.weight", 0),
    ("gemma4uv", "mm.input_projection.weight", 1),
    ("gemma4v", "mm.input_projection.weight", 1),
    ("glm4v", "mm.down.weight", 1),
    ("glm5v", "mm.down.weight", 1),
    ("hunyuanvl", "mm.model.fc.weight", 1),
    ("idefics3", "mm.model.fc.weight", 1),
    ("internvl", "mm.model.mlp.3.weight", 1),
    ("janus_pro", "mm.1.bias", 0),
    ("kimik25", "mm.2.weight", 1),
    ("kimivl", "mm.2.weight", 1),
    ("ldp", "mm.model.mb_block.1.block.2.1.bias", 0),
    ("ldpv2", "mm.model.peg.0.bias", 0),
    ("lfm2", "mm.2.weight", 1),
    ("lightonocr", "mm.2.weight", 1),
    ("llama4", "mm.model.fc.weight", 1),
    ("minicpmv4_6", "mm.down.weight", 1),
    ("mlp", "mm.2.weight", 1),
    ("paddleocr", "mm.2.weight", 1),
    ("phi4", "mm.2.weight", 1),
    ("pixtral", "mm.2.weight", 1),
    ("qwen2.5o", "mm.2.bias", 0),
    ("qwen2.5vl_merger", "mm.2.bias", 0),
    ("qwen2vl_merger", "mm.2.bias", 0),
    ("qwen3vl_merger", "mm.2.bias", 0),
    ("resampler", "resampler.proj.weight", 0),
];

impl Header {
    /// The width; `None` where the file does not tell, or is a projector of another kind.
    pub(super) fn width(&self) -> Option<u32> {
        if !self.is_projector() {
            let architecture = self.text("general.architecture")?;
            return self.number(&format!("{architecture}.embedding_length"));
        }
        let kind =
            self.text("clip.projector_type").or_else(|| self.text("clip.vision.projector_type"))?;
        // Of the two forms of this kind the one with a layer more ends elsewhere.
        if kind == "mlp" && self.dimension("mm.3.weight", 0).is_some() {
            return self.dimension("mm.3.bias", 0);
        }
        let (_, tensor, dimension) = PROJECTORS.iter().find(|row| row.0 == kind)?;
        self.dimension(tensor, *dimension)
    }

    fn dimension(&self, tensor: &str, dimension: usize) -> Option<u32> {
        let tensor = self.tensors.iter().find(|found| found.name == tensor)?;
        u32::try_from(*tensor.shape.get(dimension)?).ok()
    }
}
