//! Writes a planned recipe as TOML, with a reason for each choice.

use super::memory::Estimate;
use super::outline::{Facts, Outline, margin_mm};
use super::topology::Topology;
use ctseg_base::text::words::counted;

/// The settings that depend on the memory budget.
pub(super) struct Fit<'a> {
    pub topology: &'a Topology,
    pub batch_size: usize,
    pub width: usize,
    /// Whether a large case fits into one patch.
    pub covers_case: bool,
    /// None while the fit is being searched.
    pub estimate: Option<Estimate>,
}

/// The text of the recipe's file.
pub(super) fn recipe_toml(facts: &Facts, outline: &Outline, fit: &Fit) -> String {
    let mut text = header(facts, outline, fit);
    text += &data(facts, outline);
    text += &network(outline, fit);
    text += &match outline.nnunet {
        true => nnunet_training(facts, outline, fit),
        false => training(facts, outline, fit),
    };
    text += &augmentation(facts, outline);
    text += &two_stages(facts, outline);
    text
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn header(facts: &Facts, outline: &Outline, fit: &Fit) -> String {
    let budget = &facts.budget;
    let mut text = format!(
        "# {}\n# Planned by 'ctseg plan' for '{}' ({}, {}).\n",
        outline.title,
        facts.fingerprint.dataset.replace('\n', " "),
        counted(facts.fingerprint.cases.len(), "case"),
        counted(facts.structures.len(), "structure")
    );
    if let Some(estimate) = &fit.estimate {
        text += &format!(
            "# Training needs about {:.1} GiB {} (network {:.1}, data {:.1}; {}) of the {:.1} GiB allowed.\n",
            gib(budget.bytes_needed(estimate)),
            if budget.on_gpu {
                "on the GPU"
            } else {
                "of memory"
            },
            gib(estimate.network),
            gib(estimate.data),
            budget.precision,
            gib(budget.bytes)
        );
    }
    text
}

fn data(facts: &Facts, outline: &Outline) -> String {
    let [x, y, z] = outline.spacing.mm;
    let mut text = format!("name = \"{}\"\nstage = {}\n", outline.name, outline.stage);
    text += match outline.stage {
        1 => "structures = \"union\"            # one map for all structures together\n",
        _ => "structures = \"each\"\n",
    };
    if outline.nnunet {
        text += "outputs = \"exclusive\"\n";
    }
    text += &format!("region = \"{}\"\n", outline.region);
    if outline.prior {
        text += "prior = true                    # stage 1's probabilities as an additional input channel\n";
    }
    text += &format!(
        "# Spacing along x, y, z: {}.\nspacing_mm = [{x:?}, {y:?}, {z:?}]\ninterpolation = \"cubic\"\n",
        outline.spacing.why
    );
    let hu = facts.hu;
    text += &format!(
        "# 99 % of the structures' voxels lie between {:.0} and {:.0} HU (median {:.0}, mean {:.0}, SD {:.0}).\n",
        hu.percentile_00_5, hu.percentile_99_5, hu.median, hu.mean, hu.sd
    );
    if outline.windows.len() > 1 {
        text += "# This range is wide: soft tissue gets a window of its own.\n";
    }
    text += &format!("windows_hu = {:?}\n", outline.windows);
    if outline.nnunet {
        text += &format!(
            "normalisation = {{ kind = \"ct\", mean_hu = {:?}, sd_hu = {:?} }}\n",
            hu.mean.clamp(hu.percentile_00_5, hu.percentile_99_5),
            hu.sd
        );
    }
    text += match outline.stage {
        1 => {
            "folds = 5                       # cross-fitting: every case has a model that was not trained on it\n"
        }
        _ => {
            "folds = 5                       # the first fold is held out for validation; --fold all trains all\ntrain_folds = [0]\n"
        }
    };
    text
}

fn network(outline: &Outline, fit: &Fit) -> String {
    let topology = fit.topology;
    let widths: Vec<usize> = (0..topology.levels())
        .map(|level| (fit.width << level).min(outline.widths[1]))
        .collect();
    let mut text = format!("\n[network]\nkind = \"{}\"\n", outline.kind);
    if outline.neighbours > 0 {
        text += &format!(
            "neighbours = {}                  # neighbouring slices on each side: {:.1} mm\n",
            outline.neighbours,
            outline.neighbours as f64 * outline.spacing.mm[2]
        );
    }
    text += &format!(
        "# {} levels: the coarsest is at least 4 voxels wide.\nwidths = {widths:?}\n",
        topology.levels()
    );
    if !topology.is_plain() {
        text += &format!(
            "# Along (z,) y, x. A coarse axis is pooled and convolved only once the others are as coarse.\nstrides = {:?}\nkernels = {:?}\n",
            topology.strides, topology.kernels
        );
    }
    if outline.nnunet {
        text += "deep_supervision = true\n";
    }
    if outline.kind != "unet3d" && outline.stage == 2 {
        text += "norm = \"instance\"\nactivation = \"leaky_relu\"\n";
    }
    text
}

fn training(facts: &Facts, outline: &Outline, fit: &Fit) -> String {
    let patch = &fit.topology.patch;
    let voxels = |axis: usize| outline.extent_mm[axis] / outline.spacing.mm[axis];
    let flat = patch.len() == 2;
    let size = if flat {
        format!(
            "a median {} is {:.0} × {:.0} pixels (y, x)",
            input_name(outline),
            voxels(1),
            voxels(0)
        )
    } else {
        format!(
            "a median {} is {:.0} × {:.0} × {:.0} voxels (z, y, x)",
            input_name(outline),
            voxels(2),
            voxels(1),
            voxels(0)
        )
    };
    let why = match fit.covers_case {
        true => "a patch covers nearly all of them entirely",
        false => "larger patches do not fit into memory",
    };
    let epochs = match (outline.stage, flat) {
        (1, _) => 40,
        (_, true) => 30,
        (_, false) => 60,
    };
    let mut text = format!(
        "\n[training]\nloss = \"bce_dice\"\nepochs = {epochs}\nbatch_size = {}\n# {size}; {why}.\npatch_size = {patch:?}\n",
        fit.batch_size
    );
    text += &match (outline.stage, flat) {
        (1, _) => "empty_slice_share = 0.5         # slices without structures, relative to those with structures\n".to_owned(),
        (_, true) => "empty_slice_share = 0.2\n".to_owned(),
        (_, false) => format!(
            "foreground_share = 0.33\npatches_per_epoch = {}         # 100 steps\n",
            100 * fit.batch_size
        ),
    };
    text += &format!(
        "schedule = \"cosine\"             # the learning rate falls to 1 % over all epochs\nkeep = \"last\"                   # the learning rate is lowest there\nweight_average = {}\ncache_mb = {}\n",
        if flat { "0.999" } else { "0.99" },
        facts.cache_mb
    );
    text += "\n[training.optimiser]\nkind = \"adam\"\nlearning_rate = 1e-3\nweight_decay = 1e-5\nclip_norm = 12.0\n";
    text += &format!(
        "\n[training.early_stopping]\npatience = {epochs}                   # never: the last epochs are the best, at a low learning rate\nsmallest_gain = 1e-3\n"
    );
    text
}

/// nnU-Net's training: SGD with Nesterov momentum and polynomial decay, 1000 epochs of 250 steps.
fn nnunet_training(facts: &Facts, outline: &Outline, fit: &Fit) -> String {
    let patch = &fit.topology.patch;
    let voxels = |axis: usize| outline.extent_mm[axis] / outline.spacing.mm[axis];
    format!(
        "\n[training]\nloss = \"ce_dice\"\nepochs = 1000\nbatch_size = {}\n# a median scan is {:.0} × {:.0} × {:.0} voxels (z, y, x).\npatch_size = {patch:?}\nforeground_share = 0.33\npatches_per_epoch = {}         # 250 steps\nschedule = \"poly\"\nkeep = \"last\"\ncache_mb = {}\n\n[training.optimiser]\nkind = \"sgd\"\nlearning_rate = 1e-2\nweight_decay = 3e-5\nmomentum = 0.99\nnesterov = true\nclip_norm = 12.0\n\n[training.early_stopping]\npatience = 1000                 # never\nsmallest_gain = 1e-3\n",
        fit.batch_size,
        voxels(2),
        voxels(1),
        voxels(0),
        250 * fit.batch_size,
        facts.cache_mb
    )
}

/// The name of the network's input at inference.
fn input_name(outline: &Outline) -> &'static str {
    match outline.region {
        "roi" => "region",
        _ => "scan",
    }
}

fn augmentation(facts: &Facts, outline: &Outline) -> String {
    let mut text =
        "\n# Settings not listed here have nnU-Net's values.\n[training.augmentation]\n".to_owned();
    if !outline.nnunet {
        text += "rotation_probability = 0.7\nrotation_degrees = 15.0\n";
        if outline.kind == "unet3d" {
            text += "tilt_degrees = 10.0\n";
        }
        text += "scale_probability = 0.7\nscale = [0.8, 1.25]\nfield_of_view_probability = 0.15\n";
    }
    let others = match outline.nnunet {
        true => ["\"y\", \"z\"", ", \"y\", \"z\""],
        false => ["", ""],
    };
    match &facts.unpaired {
        Some((name, other)) => {
            text += &format!(
                "# No flips along x: there is {} but no {}.\nflip_axes = [{}]\n",
                quoted(name),
                quoted(other),
                others[0]
            );
        }
        None => {
            if !facts.pairs.is_empty() {
                text += "# A flip along x swaps left and right labels.\n";
            }
            text += &format!("flip_axes = [\"x\"{}]\n", others[1]);
            if !facts.pairs.is_empty() {
                let pairs = facts
                    .pairs
                    .iter()
                    .map(|[a, b]| format!("[{}, {}]", quoted(a), quoted(b)));
                text += &format!(
                    "mirror_pairs = [{}]\n",
                    pairs.collect::<Vec<_>>().join(", ")
                );
            }
        }
    }
    text
}

/// A name as a TOML string.
fn quoted(name: &str) -> String {
    toml::Value::String(name.to_owned())
        .to_string()
        .replace('\n', " ")
}

fn two_stages(facts: &Facts, outline: &Outline) -> String {
    if outline.stage == 1 {
        let [x, y, z] = margin_mm(&outline.spacing);
        return format!(
            "\n# How the region of interest is derived from stage 1's probabilities. All structures span {:.0} × {:.0} × {:.0} mm\n# (median), {:.0} % of a scan.\n[roi]\nthreshold = 0.1                 # low: a region that is too large costs time, one that is too small loses structures\n# A 2D network segments each slice by itself, so the ends along z are the least certain.\nmargin_mm = [{x:?}, {y:?}, {z:?}]\nsmallest_component = 0.05       # of the largest component's size; smaller ones are treated as noise\non_border = \"note\"\n",
            facts.fingerprint.median_foreground_mm[0],
            facts.fingerprint.median_foreground_mm[1],
            facts.fingerprint.median_foreground_mm[2],
            100.0 * facts.fingerprint.median_foreground_share
        );
    }
    if outline.region == "roi" {
        return "\n# Stage 1 is never exact at inference, so its region is jittered in training, and in half of the patches its\n# probabilities are dropped: stage 2 must also find structures that stage 1 misses.\n[jitter]\nshift_mm = 8.0\ngrow_mm = 8.0\ndrop_prior = 0.5\n".to_owned();
    }
    String::new()
}
