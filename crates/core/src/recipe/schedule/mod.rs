//! Learning-rate schedules. To add one: a file here that implements `ScheduleKind`, and its line in `registry`.

mod cosine;
mod kind;
mod one_cycle;
mod plateau;
mod poly;
mod registry;

pub use kind::ScheduleSettings;
pub use registry::Schedule;

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates of a schedule, by epoch.
    fn rates(schedule: Schedule, epochs: usize, warmup_epochs: usize) -> impl Fn(usize) -> f64 {
        let settings = ScheduleSettings {
            learning_rate: 0.1,
            epochs,
            warmup_epochs,
        };
        move |epoch| schedule.learning_rate(&settings, epoch).unwrap()
    }

    #[test]
    fn cosine_falls_to_one_percent() {
        let rate = rates(Schedule::Cosine, 10, 0);
        assert_eq!(rate(0), 0.1);
        assert!((rate(5) - 0.1 * 0.505).abs() < 1e-12);
        assert!((rate(10) - 0.001).abs() < 1e-12);
        assert!((1..10).all(|epoch| rate(epoch) < rate(epoch - 1)));
    }

    // PyTorch 2.11 with lr = 0.1, its rate before each epoch: PolynomialLR(total_iters=8, power=0.9),
    // SequentialLR([LinearLR(1/3, 1, 2), CosineAnnealingLR(6, 0.001)], [2]), OneCycleLR(0.1, total_steps=10).
    #[test]
    fn schedules_match_pytorch() {
        let poly = [
            0.1,
            0.088_676_235,
            0.077_188_951,
            0.065_507_649,
            0.053_588_673,
            0.041_364_534,
            0.028_717_459,
            0.015_389_305,
        ];
        let warm = [
            0.033_333_333,
            0.066_666_667,
            0.1,
            0.093_368_257,
            0.075_25,
            0.050_5,
            0.025_75,
            0.007_631_743,
        ];
        let cycle = [
            0.004,
            0.052,
            0.1,
            0.095_048_463,
            0.081_174_565,
            0.061_126_202,
            0.038_874_198,
            0.018_825_835,
            0.004_951_937,
            4e-7,
        ];
        let close = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 2e-9, "{found} for {expected}");
        };
        for (epoch, expected) in poly.into_iter().enumerate() {
            close(rates(Schedule::Poly, 8, 0)(epoch), expected);
        }
        for (epoch, expected) in warm.into_iter().enumerate() {
            close(rates(Schedule::Cosine, 8, 2)(epoch), expected);
        }
        for (epoch, expected) in cycle.into_iter().enumerate() {
            close(rates(Schedule::OneCycle, 10, 0)(epoch), expected);
        }
    }

    #[test]
    fn rates_are_valid_for_few_epochs() {
        for epochs in 1..5 {
            for epoch in 0..=epochs {
                let rates = [Schedule::Cosine, Schedule::Poly, Schedule::OneCycle]
                    .map(|schedule| rates(schedule, epochs, epochs - 1)(epoch));
                assert!(
                    rates.iter().all(|rate| (0.0..=0.1 + 1e-12).contains(rate)),
                    "{rates:?}"
                );
            }
        }
    }

    #[test]
    fn names_are_those_of_recipes() {
        for schedule in Schedule::ALL {
            let name = serde_json::to_string(schedule).unwrap();
            assert_eq!(name, format!("\"{}\"", schedule.name()));
        }
        let error = serde_json::from_str::<Schedule>("\"linear\"").unwrap_err();
        let message =
            "unknown variant `linear`, expected one of `plateau`, `cosine`, `poly`, `one_cycle`";
        assert!(error.to_string().starts_with(message), "{error}");
    }
}
