"""The effect of every field of other libraries' configs: the table of ``docs/sources.md``.

A field that no table here has is unknown: a note names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from exporters.text_files import listed

Effect = Literal["honoured", "compared", "refused", "images", "none"]


@dataclass(frozen=True)
class Field:
    """The effect of one field.

    Attributes:
        effect: Kind of effect. ``honoured``: the field decides; ``compared``: it is compared with
            the weights, and a contradiction is refused; ``refused``: a value that asks for
            something else than is built is refused; ``images``: it is about the images, not the
            model; ``none``: it does not change what a model computes.
        words: Details for the table; may be empty.
    """

    effect: Effect
    words: str


def _fields(effect: Effect, **words: str) -> dict[str, Field]:
    return {name: Field(effect, text) for name, text in words.items()}


def _plain(effect: Effect, words: str, names: str) -> dict[str, Field]:
    return {name: Field(effect, words) for name in names.split()}


def _none(words: str, names: str) -> dict[str, Field]:
    return _plain("none", words, names)


_TRAINING = "only training uses it"
_TEXT = "of text generation"
_BOOKS = "bookkeeping"
_DERIVED = "the library derives it from the sizes"
_ONE_SIZE = "one image size is built, whatever the library accepts"
_CALLS = "what the library's call returns, not what it computes"

# transformers: fields of every config (PreTrainedConfig), whatever the model.
GENERAL: dict[str, Field] = {
    **_fields(
        "honoured",
        model_type="family; `maskformer-swin` shifts windows also where one covers the map",
        architectures="a `...Backbone` gives stage maps, `...ForImageClassification` has classes",
    ),
    **_fields(
        "compared",
        id2label="number of classes of an image classifier",
        num_labels="the same, where there is no `id2label`",
    ),
    **_fields(
        "refused",
        pruned_heads="must be empty",
        quantization_config="must be absent: weights are read as they are",
    ),
    **_none("weights are read as float32", "dtype torch_dtype use_bfloat16"),
    **_none(
        _CALLS,
        "output_attentions output_hidden_states return_dict torchscript tf_legacy_loss "
        "attn_implementation _attn_implementation _attn_implementation_autoset use_cache",
    ),
    **_none("another order of the same sums", "chunk_size_feed_forward"),
    **_none(_TRAINING, "gradient_checkpointing finetuning_task"),
    **_fields("images", problem_type="scores: softmax, sigmoid for `multi_label_classification`"),
    **_none(
        _BOOKS,
        "_name_or_path _commit_hash transformers_version label2id task_specific_params "
        "tokenizer_class auto_map processor_class",
    ),
    **_none(
        _TEXT,
        "is_encoder_decoder is_decoder add_cross_attention cross_attention_hidden_size "
        "tie_encoder_decoder tie_word_embeddings max_length min_length do_sample early_stopping "
        "num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p "
        "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size "
        "bad_words_ids num_return_sequences output_scores return_dict_in_generate "
        "forced_bos_token_id forced_eos_token_id remove_invalid_values "
        "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens prefix "
        "bos_token_id pad_token_id eos_token_id sep_token_id decoder_start_token_id",
    ),
}

# transformers: SwinConfig, Swinv2Config, DonutSwinConfig, MaskFormerSwinConfig.
HUGGINGFACE: dict[str, Field] = {
    **_fields(
        "honoured",
        image_size="one side, or rows and columns; `--image-size` overrides",
        window_size="V2's windows; V1's must be those of the tables",
        pretrained_window_sizes="V2: scale of the coordinates of the position bias",
        out_features="backbones: the stages whose maps are given; `stem` is refused",
        out_indices="the same by number, where there is no `out_features`",
        hidden_act="activation of the MLPs",
        layer_norm_eps="of the blocks and the final norm; the library has 1e-05 in all others",
    ),
    **_fields(
        "compared",
        embed_dim="",
        depths="",
        num_heads="",
        mlp_ratio="hidden channels are rounded down, as the library does",
        patch_size="squares only",
        num_channels="",
        qkv_bias="",
        use_absolute_embeddings="V1 only: the others cannot run with them",
        num_attention_heads="another name of `num_heads`",
    ),
    **_none(
        _TRAINING,
        "hidden_dropout_prob attention_probs_dropout_prob drop_path_rate initializer_range",
    ),
    **_none(_DERIVED, "hidden_size num_layers num_hidden_layers stage_names"),
    **_none("of the decoder for masked images", "encoder_stride"),
    **_none("the library does not read it", "path_norm patch_norm"),
    **GENERAL,
}

# timm: the constructors of SwinTransformer and SwinTransformerV2, and create_model.
TIMM_ARGUMENTS: dict[str, Field] = {
    **_fields(
        "honoured",
        img_size="one side, or rows and columns; `--image-size` overrides",
        window_size="of all stages or of each, a side or rows and columns; V1's must be those of "
        "the tables",
        pretrained_window_sizes="V2: scale of the coordinates of the position bias",
        global_pool="`avg`, `max` or `avgmax`, also with `fast`; an empty one gives tokens",
        act_layer="activation of the MLPs; V2 only, timm's V1 does not have it",
        always_partition="windows neither shrink to the map nor stop shifting",
        dynamic_img_size="at another image size, windows stay those of `img_size`",
        features_only="stage maps",
        out_indices="the stages whose maps are given, with `features_only`",
    ),
    **_fields(
        "compared",
        embed_dim="",
        depths="",
        num_heads="",
        mlp_ratio="hidden channels are rounded down, as the library does",
        patch_size="squares only",
        in_chans="",
        num_classes="",
        qkv_bias="",
        head_dim="must be channels over heads",
    ),
    **_fields(
        "refused",
        norm_layer="must be the default, a LayerNorm with an epsilon of 1e-05",
        embed_layer="must be the default",
    ),
    **_none(_TRAINING, "drop_rate proj_drop_rate attn_drop_rate drop_path_rate weight_init"),
    **_none(_ONE_SIZE, "strict_img_size"),
    **_none("where and in which type the library builds it", "device dtype"),
    **_none("names of the extractor's tensors, which the file shows", "feature_cls"),
    **_none(
        "of the call that builds the model",
        "pretrained pretrained_cfg pretrained_cfg_overlay checkpoint_path cache_dir scriptable "
        "exportable no_jit",
    ),
}

# timm: ``pretrained_cfg`` (PretrainedCfg).
TIMM_PRETRAINED: dict[str, Field] = {
    **_fields(
        "honoured",
        input_size="image side, where `model_args` has none",
        global_pool="pooling, where `model_args` has none",
    ),
    **_fields("compared", num_classes="where nothing else says it"),
    **_fields(
        "refused",
        label_offset="must be 0 or absent: the library would cut classes off",
        custom_load="must be false: the file would be of another format",
    ),
    **_plain(
        "images",
        "preprocessing",
        "interpolation crop_pct crop_mode mean std test_input_size test_crop_pct",
    ),
    **_plain("images", "names of the classes", "label_names label_descriptions"),
    **_none(_ONE_SIZE, "fixed_input_size"),
    **_none("of other sizes than the model's own", "min_input_size pool_size test_pool_size"),
    **_none(
        "place of the weights: the ones beside the file are read",
        "url file state_dict hf_hub_id hf_hub_filename source",
    ),
    **_none("names of layers, which the weights show", "first_conv classifier"),
    **_none(
        _BOOKS,
        "architecture tag license description origin_url paper_name paper_ids notes",
    ),
}

# timm: the top of ``config.json``, and what transformers' TimmWrapper adds to it.
TIMM: dict[str, Field] = {
    **_fields(
        "honoured",
        architecture="sizes of that variant, where `model_args` does not say otherwise",
        model_args="see `model_args.*`",
        pretrained_cfg="see `pretrained_cfg.*`",
        architectures="a `TimmWrapperModel` has no classes, whatever `num_classes` says",
    ),
    **_fields(
        "compared",
        num_classes="where `model_args` has none",
        global_pool="must be that of `model_args`, which the library builds from",
    ),
    **_none(_DERIVED, "num_features"),
    **_none("`--outputs` chooses between tokens and their mean", "do_pooling"),
    **_none(_TRAINING, "initializer_range"),
    **_plain("images", "names of the classes", "label_names label_descriptions labels"),
    **{name: field for name, field in GENERAL.items() if field.effect in ("none", "images")},
    **_none("TimmWrapper's own", "model_type id2label num_labels"),
}


def unknown_note(
    names: Iterable[str], known: dict[str, Field], *, where: str = "config.json"
) -> tuple[str, ...]:
    """Return a note on fields that the table does not have.

    Args:
        names: Names of the fields.
        known: The table, name to effect.
        where: Name of the file or of its part, for the note.

    Returns:
        One note, or none if every field is known.
    """
    strange = sorted(set(names) - known.keys())
    if not strange:
        return ()
    return (f"{where} has fields that are not known here and were passed over: {listed(strange)}",)


def field_rows() -> list[tuple[str, str, str, str]]:
    """Return the rows of the table in ``docs/sources.md``: source, fields, effect, words.

    Fields that transformers' TimmWrapper shares with its other models are listed once.
    """
    own = {name: field for name, field in TIMM.items() if GENERAL.get(name) is not field}
    parts = (
        ("huggingface", "", HUGGINGFACE),
        ("timm", "", own),
        ("timm", "model_args.", TIMM_ARGUMENTS),
        ("timm", "pretrained_cfg.", TIMM_PRETRAINED),
    )
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for source, start, table in parts:
        for name, field in table.items():
            alone = name if field.effect in ("honoured", "compared", "refused") else start
            key = (source, field.effect, field.words, alone)
            rows.setdefault(key, []).append(f"`{start}{name}`")
    return [
        (source, ", ".join(names), EFFECTS[effect], words)
        for (source, effect, words, _), names in rows.items()
    ]


EFFECTS = {
    "honoured": "honoured",
    "compared": "compared with the weights",
    "refused": "refused",
    "images": "not of the model",
    "none": "no effect",
}
