"""Which errors stand in a table, of the terminal and of the model card."""

# (heading, metric, format); a column whose metric no line has is left out.
COLUMNS = {
    "forces": [
        ("structures", "num_structures", "d"),
        ("MAE", "force_mae_mev_per_ang", ".1f"),
        ("RMSE", "force_rmse_mev_per_ang", ".1f"),
        ("cosine", "force_cosine", ".3f"),
        ("MAE near defect", "near_defect_mae_mev_per_ang", ".1f"),
        ("zero-force MAE", "zero_force_mae_mev_per_ang", ".1f"),
        ("zero-force MAE near defect", "zero_force_near_defect_mae_mev_per_ang", ".1f"),
    ],
    "energy": [
        ("structures", "num_structures", "d"),
        ("MAE per atom", "energy_mae_mev_per_atom", ".2f"),
        ("RMSE per atom", "energy_rmse_mev_per_atom", ".2f"),
        ("composition-only MAE per atom", "composition_baseline_mae_mev_per_atom", ".2f"),
    ],
}
