"""What every field of `transformers.TrainingArguments` does here: it acts, is refused by name, or is harmless.

A test holds these lists against the installed version, so that a new field must be looked at before it is let through.
"""

from __future__ import annotations

OWNED = {  # fields -> the setting that decides them, if one does
    "output_dir": "output",
    "seed": "seed",
    "gradient_accumulation_steps": "global_batch_size",
    "per_device_eval_batch_size": "eval.batch_size",
    "resume_from_checkpoint": "resume",
    "remove_unused_columns": None,
    "label_names": None,
    "average_tokens_across_devices": None,
}

_OWN_EVALUATION = "evaluation is stoical's own, which the section eval sets"
_ONE_COMMAND = "`stoical train` trains, and evaluates as eval_strategy says"
REFUSED = {  # fields -> why a recipe may not set them (but to what they are anyway)
    "accelerator_config": "it changes how batches are shared out, which global_batch_size decides",
    "auto_find_batch_size": "it would change the global batch without a word; per_device_train_batch_size is a limit",
    "batch_eval_metrics": _OWN_EVALUATION,
    "bf16_full_eval": "evaluation computes in the precision that training does",
    "dataloader_persistent_workers": "workers that live on would shuffle documents as in the first epoch",
    "do_eval": _ONE_COMMAND,
    "do_predict": _ONE_COMMAND,
    "do_train": _ONE_COMMAND,
    "enable_jit_checkpoint": "it saves in the middle of a step; resume=auto continues from the last checkpoint",
    "eval_accumulation_steps": _OWN_EVALUATION,
    "eval_do_concat_batches": _OWN_EVALUATION,
    "eval_use_gather_object": _OWN_EVALUATION,
    "fp16_full_eval": "evaluation computes in the precision that training does",
    "hub_token": "it would be written into the run's files; log in with `hf auth login` instead",
    "ignore_data_skip": "a resumed run would train on the first batches again",
    "include_for_metrics": _OWN_EVALUATION,
    "include_num_input_tokens_seen": "packed batches lack the columns that it counts; tokens_per_second is logged",
    "label_smoothing_factor": "no labels are smoothed: the targets are loss.token's shares over the trie",
    "length_column_name": "rows have no such column",
    "liger_kernel_config": "its kernels have not been proved on the rows of a trie",
    "load_best_model_at_end": (
        "a run ends with its last weights; metric_for_best_model=ndcg keeps the best checkpoint too, and "
        "stoical evaluate checkpoint=RUN/checkpoint-N takes it"
    ),
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "parallelism_config": "tensor and context parallel layers have not been proved on the mask of a trie",
    "prediction_loss_only": _OWN_EVALUATION,
    "restore_callback_states_from_checkpoint": "no callback here keeps a state",
    "torch_compile": "every batch has another shape, so that every step would compile",
    "torch_compile_backend": "torch_compile is not for a recipe to set",
    "torch_compile_mode": "torch_compile is not for a recipe to set",
    "use_cache": "the layout decides whether keys and values are kept",
    "use_liger_kernel": "its kernels have not been proved on the rows of a trie",
}

ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules")  # acts with optimizer=trainer
NOT_ADAM = ("adafactor", "sgd", "adagrad", "rmsprop")
OPTIM_ARGS = {  # what transformers 5.23 reads out of optim_args; of other optimizers their own packages say it
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adafactor"), ()),
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
}

ACTS = frozenset(
    {
        *("per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type"),
        *("lr_scheduler_kwargs", "warmup_steps", "optim", *ADAM, "weight_decay", "max_grad_norm", "bf16", "fp16"),
        *("tf32", "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing"),
        *("gradient_checkpointing_kwargs", "neftune_noise_alpha", "torch_empty_cache_steps", "logging_strategy"),
        *("logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica"),
        *("disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id"),
        *("trackio_static_space_id", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
        *("save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit", "push_to_hub"),
        *("hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"),
        *("metric_for_best_model", "greater_is_better", "full_determinism", "data_seed", "use_cpu"),
        *("dataloader_drop_last", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor"),
        *("dataloader_multiprocessing_context", "dataloader_in_order", "train_sampling_strategy"),
        *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"),
        *("ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "deepspeed", "debug"),
    }
)
HARMLESS = frozenset({"skip_memory_metrics", "local_rank"})  # nothing here depends on them
METRIC_DRIVEN = ("reduce_lr_on_plateau", "greedy")  # schedules for which evaluations are part of the training


def effect(name: str) -> str:
    """What setting a field of TrainingArguments does here, in one line."""
    if name in OWNED:
        return f"Refused: {OWNED[name]} sets it." if OWNED[name] else "Refused: the trie's batches need it as it is."
    if name in REFUSED:
        return f"Refused: {REFUSED[name]}."
    if name in HARMLESS:
        return "Harmless: nothing here depends on it."
    if name not in ACTS:
        return "Newer than this version of stoical: handed on to transformers."
    return "Acts with optimizer=trainer." if name in (*ADAM, "optim") else "Acts."
