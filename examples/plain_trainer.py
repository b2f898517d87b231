"""Training with `transformers.Trainer` and `datasets` alone, for those who have a training script of their own."""

from pathlib import Path

from datasets import load_dataset
from transformers import Trainer, TrainingArguments

from modeling_adapt import ADAPTFeatureExtractor, ADAPTForEnergy
from modeling_adapt.cli import generate_defects
from modeling_adapt.data.load.batching import StructureCollator


def main(folder: str = "runs/plain", structures: int = 100, steps: int = 60) -> float:
    """The loss on the validation split after so many steps."""
    data = str(Path(folder) / "data")
    size = ["--structures", str(structures), "--repeat", "2", "--frames", "5", "--steps", "10", "--md-share", "0"]
    generate_defects.main([data, *size, "--kinds", "vacancy,interstitial_tetrahedral"])  # or data of your own

    model = ADAPTForEnergy.from_pretrained("adapt-si")  # or ADAPTForEnergy(ADAPTEnergyConfig(...)) from the start
    feature_extractor = ADAPTFeatureExtractor.for_model(model.config)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(Path(folder) / "model"),
            max_steps=steps,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            label_names=["labels", "reference_forces"],
            dataloader_pin_memory=False,
        ),
        train_dataset=load_dataset(data, split="train"),
        eval_dataset=load_dataset(data, split="validation"),
        data_collator=StructureCollator(feature_extractor, target="energy_and_forces"),
    )
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model()
    feature_extractor.save_pretrained(trainer.args.output_dir)  # with it the folder loads everywhere
    print(f"validation loss {loss:.3f}; model in {trainer.args.output_dir}")
    return loss


if __name__ == "__main__":
    main()
