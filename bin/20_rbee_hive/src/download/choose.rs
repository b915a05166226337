//! Which files of a repository are the model that is wanted. Pure.
//!
//! Of several quantizations the best is taken that fits the machine's memory. More bits are better, up
//! to 8: no difference to the weights of the original can be measured there, and a file of 16 bits is
//! twice as large and, since each token reads all of it, half as fast.

use bytesize::ByteSize;

use super::hub::RepoFile;
use crate::catalog::quantization_in;
use crate::catalog::shard::Shard;

/// From the best to the poorest; what is not in the list comes after it, by size.
const ORDER: [&str; 38] = [
    "Q8_0", "Q6_K_XL", "Q6_K_L", "Q6_K", "Q5_K_XL", "Q5_K_L", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0",
    "Q4_K_XL", "Q4_K_L", "Q4_K_M", "MXFP4", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q4_1", "Q4_0",
    "Q3_K_XL", "Q3_K_L", "IQ3_M", "Q3_K_M", "IQ3_S", "IQ3_XS", "Q3_K_S", "IQ3_XXS", "Q2_K_XL",
    "Q2_K_L", "Q2_K", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0",
];
/// As good as 8 bits, and larger: only where there is nothing else.
const UNQUANTIZED: [&str; 5] = ["BF16", "F16", "FP16", "F32", "FP32"];

/// A memory that the model is to fit into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The device, for people.
    pub(crate) device: String,
    pub(crate) bytes: u64,
}

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// In the order of the parts.
    pub(crate) files: Vec<RepoFile>,
    /// Which quantization they are of, where their name says so.
    pub(crate) quant: Option<String>,
    /// Which, and why, where there was something to choose from.
    pub(crate) reason: Option<String>,
}

/// No file can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoChoice {
    /// There is no model in the repository.
    #[error("{repo} has no GGUF file")]
    NoModel { repo: String },
    /// The wanted quantization is not there.
    #[error("{repo} has no {wanted}")]
    NotThere { repo: String, wanted: String, there: String },
    /// Several files have it.
    #[error("{wanted} is in several files of {repo}")]
    Several { repo: String, wanted: String, there: String },
    /// A split model is not whole.
    #[error("{repo} has only {found} of the {count} parts of {name}")]
    Incomplete { repo: String, name: String, found: usize, count: usize },
    /// None fits.
    #[error("no quantization of {repo} fits {memory}: the smallest, {smallest}, is too large")]
    NoneFits { repo: String, memory: String, smallest: String },
}

impl NoChoice {
    /// A stable machine name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoModel { .. } => "no_model",
            Self::NotThere { .. } => "quantization_not_found",
            Self::Several { .. } => "quantization_ambiguous",
            Self::Incomplete { .. } => "split_model_incomplete",
            Self::NoneFits { .. } => "model_too_large",
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NoModel { .. } => {
                "look for a repository with GGUF in its name: others hold weights that have to be \
                 converted"
                    .into()
            }
            Self::NotThere { there, .. } => format!("there is {there}"),
            Self::Several { there, .. } => format!("name the file: {there}"),
            Self::Incomplete { .. } => "its owner has not uploaded all of it".into(),
            Self::NoneFits { smallest, .. } => {
                format!("name one to download it all the same: hf:OWNER/REPO:{smallest}")
            }
        }
    }
}

/// Chooses among the files of a repository; `memories` in the order in which they are preferred.
pub(crate) fn choose(
    repo: &str,
    files: &[RepoFile],
    wanted: Option<&str>,
    memories: &[Memory],
) -> Result<Choice, NoChoice> {
    let models = models(files);
    if models.is_empty() {
        return Err(NoChoice::NoModel { repo: repo.to_owned() });
    }
    if let Some(wanted) = wanted {
        let model = named(repo, &models, wanted)?;
        return model.chosen(repo, None);
    }
    if let [only] = models.as_slice() {
        return only.chosen(repo, None);
    }
    let mut by_quality: Vec<&Model> = models.iter().collect();
    by_quality.sort_by_key(|model| model.rank());
    for memory in memories {
        let best = by_quality.iter().find(|model| model.needs() <= memory.bytes);
        if let Some(best) = best {
            let reason = reason(best, &by_quality, memory);
            return best.chosen(repo, Some(reason));
        }
    }
    let smallest = models.iter().min_by_key(|model| model.bytes()).unwrap_or(&models[0]);
    if let Some(memory) = memories.first() {
        return Err(NoChoice::NoneFits {
            repo: repo.to_owned(),
            memory: format!("{} ({})", memory.device, gibibytes(memory.bytes)),
            smallest: smallest.label(),
        });
    }
    // A machine that is not known gets what most people run.
    let usual = by_quality.iter().find(|model| model.quant.as_deref() == Some("Q4_K_M"));
    let taken = usual.copied().unwrap_or(smallest);
    let (label, count) = (taken.label(), models.len());
    let reason =
        format!("{label} of {count} quantizations: the memory of this machine is not known");
    taken.chosen(repo, Some(reason))
}

/// The files of one quantization.
#[derive(Debug)]
struct Model {
    /// The name of its file, or of its parts without their numbers.
    name: String,
    quant: Option<String>,
    count: usize,
    parts: Vec<(usize, RepoFile)>,
}

impl Model {
    fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, file)| file.size.unwrap_or(0)).sum()
    }

    /// Weights, context and computing, roughly: what a worker really takes is reckoned at its start.
    fn needs(&self) -> u64 {
        const CONTEXT: u64 = 512 << 20;
        self.bytes().saturating_add(self.bytes() / 10).saturating_add(CONTEXT)
    }

    fn label(&self) -> String {
        self.quant.clone().unwrap_or_else(|| self.name.clone())
    }

    /// The better, the lower.
    fn rank(&self) -> (usize, std::cmp::Reverse<u64>) {
        let quant = self.quant.as_deref().unwrap_or_default();
        let plain = quant.strip_prefix("UD-").unwrap_or(quant);
        let place = ORDER.iter().position(|known| *known == plain);
        let place = place.unwrap_or(ORDER.len() + usize::from(UNQUANTIZED.contains(&plain)));
        (place, std::cmp::Reverse(self.bytes()))
    }

    fn chosen(&self, repo: &str, reason: Option<String>) -> Result<Choice, NoChoice> {
        Ok(Choice { files: self.whole(repo)?, quant: self.quant.clone(), reason })
    }

    fn whole(&self, repo: &str) -> Result<Vec<RepoFile>, NoChoice> {
        if self.parts.len() != self.count {
            let (repo, name) = (repo.to_owned(), self.name.clone());
            let (found, count) = (self.parts.len(), self.count);
            return Err(NoChoice::Incomplete { repo, name, found, count });
        }
        Ok(self.parts.iter().map(|(_, file)| file.clone()).collect())
    }
}

/// The models among the files: parts together, and nothing that is only an addition to a model.
fn models(files: &[RepoFile]) -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    for file in files {
        let base = file.name.rsplit('/').next().unwrap_or(&file.name).to_ascii_lowercase();
        let is_addition = ["mmproj", "imatrix", "lora", "adapter", "ggml-vocab"]
            .iter()
            .any(|word| base.contains(word));
        let Some(stem) = file.name.strip_suffix(".gguf").or(file.name.strip_suffix(".GGUF")) else {
            continue;
        };
        if is_addition {
            continue;
        }
        let (name, index, count) = match Shard::of(stem) {
            Some(shard) => (shard.stem.to_owned(), shard.index, shard.count),
            None => (stem.to_owned(), 1, 1),
        };
        let there = models.iter_mut().find(|model| model.name == name && model.count == count);
        if let Some(model) = there {
            model.parts.push((index, file.clone()));
        } else {
            let quant = quantization_in(&name).map(str::to_ascii_uppercase);
            models.push(Model { name, quant, count, parts: vec![(index, file.clone())] });
        }
    }
    for model in &mut models {
        model.parts.sort_by_key(|(index, _)| *index);
        model.parts.dedup_by_key(|(index, _)| *index);
    }
    models
}

fn named<'m>(repo: &str, models: &'m [Model], wanted: &str) -> Result<&'m Model, NoChoice> {
    let lower = wanted.to_ascii_lowercase();
    let stem = lower.strip_suffix(".gguf").unwrap_or(&lower);
    let stem = Shard::of(stem).map_or(stem, |shard| shard.stem);
    let by_path = |model: &&Model| model.name.eq_ignore_ascii_case(stem);
    let by_file = |model: &&Model| {
        model.name.rsplit('/').next().is_some_and(|name| name.eq_ignore_ascii_case(stem))
    };
    let by_quant = |model: &&Model| {
        let quant = model.quant.as_deref().unwrap_or_default();
        quant.eq_ignore_ascii_case(wanted)
    };
    let mut found: Vec<&Model> = models.iter().filter(by_path).collect();
    if found.is_empty() {
        found = models.iter().filter(by_file).collect();
    }
    if found.is_empty() {
        found = models.iter().filter(by_quant).collect();
    }
    if found.is_empty() {
        // `Q4_K_XL` of a file that calls it `UD-Q4_K_XL`.
        let dynamic = format!("UD-{wanted}");
        let quant = |model: &&Model| model.label().eq_ignore_ascii_case(&dynamic);
        found = models.iter().filter(quant).collect();
    }
    let (repo, wanted) = (repo.to_owned(), wanted.to_owned());
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(NoChoice::NotThere { repo, wanted, there: labels(models.iter()) }),
        several => {
            let names = several.iter().map(|model| format!("{}.gguf", model.name));
            Err(NoChoice::Several { repo, wanted, there: names.collect::<Vec<_>>().join(", ") })
        }
    }
}

fn reason(best: &Model, by_quality: &[&Model], memory: &Memory) -> String {
    let size = ByteSize(best.bytes()).display().si();
    let (label, count) = (best.label(), by_quality.len());
    let (device, memory) = (&memory.device, gibibytes(memory.bytes));
    let better = by_quality.iter().take_while(|model| model.name != best.name).last();
    let next = better.map_or(String::new(), |better| {
        let size = ByteSize(better.bytes()).display().si();
        format!("; {} ({size}) does not", better.label())
    });
    format!(
        "{label} ({size}): the best of {count} quantizations that fits {device} ({memory}){next}"
    )
}

fn labels<'m>(models: impl Iterator<Item = &'m Model>) -> String {
    let mut labels: Vec<String> = models.map(Model::label).collect();
    labels.sort();
    labels.dedup();
    labels.truncate(40);
    labels.join(", ")
}

fn gibibytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    /// The sizes of a model of 8 billion weights.
    const LLAMA: [(&str, u64); 8] = [
        ("Llama-8B-F16.gguf", 16_070),
        ("Llama-8B-Q8_0.gguf", 8_540),
        ("Llama-8B-Q6_K.gguf", 6_600),
        ("Llama-8B-Q5_K_M.gguf", 5_730),
        ("Llama-8B-Q4_K_M.gguf", 4_920),
        ("Llama-8B-IQ4_XS.gguf", 4_450),
        ("Llama-8B-Q2_K.gguf", 3_180),
        ("mmproj-Llama-8B-F16.gguf", 800),
    ];

    fn files(list: &[(&str, u64)]) -> Vec<RepoFile> {
        let file = |&(name, megabytes): &(&str, u64)| RepoFile {
            name: name.into(),
            size: Some(megabytes * 1_000_000),
            sha256: None,
        };
        list.iter().map(file).collect()
    }

    fn chosen(
        list: &[(&str, u64)],
        wanted: Option<&str>,
        gigabytes: &[u64],
    ) -> Result<Choice, NoChoice> {
        let memory = |(n, gb): (usize, &u64)| Memory { device: format!("GPU-{n}"), bytes: gb * GB };
        let memories: Vec<Memory> = gigabytes.iter().enumerate().map(memory).collect();
        choose("o/r", &files(list), wanted, &memories)
    }

    #[test]
    fn the_best_quantization_that_fits_is_taken() {
        for (gigabytes, expected) in [
            (&[24][..], "Llama-8B-Q8_0.gguf"),
            (&[8], "Llama-8B-Q6_K.gguf"),
            (&[6], "Llama-8B-Q4_K_M.gguf"),
            (&[5, 64], "Llama-8B-Q2_K.gguf"),
            (&[2, 64], "Llama-8B-Q8_0.gguf"),
            (&[], "Llama-8B-Q4_K_M.gguf"),
        ] {
            let choice = chosen(&LLAMA, None, gigabytes).unwrap();
            assert_eq!(choice.files[0].name, expected, "{gigabytes:?}");
            assert_eq!(choice.files.len(), 1);
        }
    }

    #[test]
    fn the_choice_says_which_and_why() {
        let choice = chosen(&LLAMA, None, &[8]).unwrap();
        assert_eq!(
            choice.reason.as_deref(),
            Some(
                "Q6_K (6.6 GB): the best of 7 quantizations that fits GPU-0 (7.5 GiB); Q8_0 (8.5 GB) does not"
            )
        );
        let only = chosen(&LLAMA[..1], None, &[1]).unwrap();
        assert_eq!(only.reason, None, "there was nothing to choose from");
        let none = chosen(&LLAMA, None, &[1]).unwrap_err();
        assert_eq!(none.code(), "model_too_large");
        assert!(none.to_string().contains("Q2_K"), "{none}");
    }

    #[test]
    fn what_is_named_is_taken_whatever_its_size_or_refused_with_what_there_is() {
        for wanted in ["Q8_0", "q8_0", "Llama-8B-Q8_0.gguf", "llama-8b-q8_0"] {
            let choice = chosen(&LLAMA, Some(wanted), &[1]).unwrap();
            assert_eq!(choice.files[0].name, "Llama-8B-Q8_0.gguf", "{wanted}");
        }
        let missing = chosen(&LLAMA, Some("Q3_K_M"), &[8]).unwrap_err();
        assert_eq!(missing.code(), "quantization_not_found");
        assert!(missing.hint().contains("Q4_K_M"), "{}", missing.hint());
        assert_eq!(chosen(&[("README.md", 1)], None, &[8]).unwrap_err().code(), "no_model");
        let two = [("a-Q4_0.gguf", 1), ("b-Q4_0.gguf", 1)];
        assert_eq!(chosen(&two, Some("Q4_0"), &[8]).unwrap_err().code(), "quantization_ambiguous");
        let dynamic = [("a-UD-Q4_K_XL.gguf", 1), ("a-Q4_0.gguf", 1)];
        let choice = chosen(&dynamic, Some("Q4_K_XL"), &[8]).unwrap();
        assert_eq!(choice.files[0].name, "a-UD-Q4_K_XL.gguf");
    }

    #[test]
    fn the_parts_of_a_split_model_are_one_model_in_their_order() {
        let split = [
            ("Q8_0/big-Q8_0-00002-of-00002.gguf", 9_000),
            ("Q8_0/big-Q8_0-00001-of-00002.gguf", 9_000),
            ("big-Q4_K_M.gguf", 9_000),
        ];
        let choice = chosen(&split, None, &[24]).unwrap();
        let names: Vec<&str> = choice.files.iter().map(|file| &*file.name).collect();
        assert_eq!(
            names,
            ["Q8_0/big-Q8_0-00001-of-00002.gguf", "Q8_0/big-Q8_0-00002-of-00002.gguf"]
        );
        assert_eq!(chosen(&split, None, &[12]).unwrap().files[0].name, "big-Q4_K_M.gguf");
        let half = chosen(&split[..1], None, &[24]).unwrap_err();
        assert_eq!(half.code(), "split_model_incomplete");
    }
}
