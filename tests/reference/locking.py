"""Tiny text models in folders as transformers writes them, and open_clip's text tower of the same weights."""

import string

import peers  # noqa: F401 - before open_clip and transformers
import torch
import transformers as hf
from encoders.checkpoints import perturbed
from objectives import CAPTIONS, TOKENIZER
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from paribus.rng import torch_seed

ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 330,
}
DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 72,
    "vocab_size": 330,
    "max_position_embeddings": 128,
}

POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler"}
"""Our names of what open_clip calls so; its ``cls_pooler`` has a layer of its own."""


def _bert_tokenizer():
    """Lower-case WordPiece between [CLS] and [SEP], as BERT's; padding has id 0.

    Half of the captions' words are whole, the others fall into letters. It is not trained, because that
    breaks ties by chance.
    """
    words = sorted(set(" ".join(CAPTIONS).replace(",", "").split()))[::2]
    letters = string.digits + string.ascii_lowercase
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _roberta_tokenizer():
    """Byte-level BPE between <s> and </s>, as RoBERTa's; padding has id 1, from which positions count on."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special, alphabet = ["<s>", "<pad>", "</s>", "<unk>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _decoder_tokenizer(**names):
    """Words and nothing around them."""
    return hf.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER, eos_token="<end>", **names)


def bert(folder, **settings):
    config = hf.BertConfig(**ENCODER | {"max_position_embeddings": 96} | settings)
    return _saved(hf.BertModel, config, _bert_tokenizer(), folder, add_pooling_layer=False)


def roberta(folder, **settings):
    config = hf.RobertaConfig(**ENCODER | {"max_position_embeddings": 98, "type_vocab_size": 1} | settings)
    return _saved(hf.RobertaModel, config, _roberta_tokenizer(), folder, add_pooling_layer=False)


def llama(folder, **settings):
    """Without a padding token, as Llama's are."""
    return _saved(hf.LlamaModel, hf.LlamaConfig(**DECODER | settings), _decoder_tokenizer(), folder)


def qwen2(folder, **settings):
    """transformers gives its tokenizer one token more than the file has."""
    tokenizer = _decoder_tokenizer(pad_token="<pad>")
    return _saved(hf.Qwen2Model, hf.Qwen2Config(**DECODER | settings), tokenizer, folder)


def _saved(kind, config, tokenizer, folder, **settings):
    with torch_seed(0, "a tiny text model"):
        model = perturbed(kind(config, **settings))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, folder


KINDS = {"bert": bert, "roberta": roberta, "llama": llama, "qwen2": qwen2}


def open_clip_text(folder, model, *, pooling="mean", projection="linear", embed=8):
    """open_clip's tower with a model's weights; its own projection stays random."""
    peer = HFTextEncoder(
        str(folder), embed, pooler_type=POOLERS[pooling], proj_type=projection, pretrained=False
    )
    peer.transformer.load_state_dict(model.state_dict(), strict=True)
    return peer.eval()


def open_clip_lock(peer, unlocked, freeze_layer_norm):
    """``HFTextEncoder.lock``; the table it reads lacks two of BERT's names, which are as RoBERTa's."""
    names = arch_dict[peer.config.model_type]["config_names"]
    added = {
        key: arch_dict["roberta"]["config_names"][key] for key in ("layer_attr", "token_embeddings_attr")
    }
    before = dict(names)
    names.update(added | before)
    try:
        peer.lock(unlocked_layers=unlocked, freeze_layer_norm=freeze_layer_norm)
    finally:
        names.clear()
        names.update(before)


def frozen_names(module):
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def ids_of(tokenizer, texts, context):
    """Each text's ids alone, by the tokenizer itself, padded by hand: ``[B T]``."""
    rows = [tokenizer(text, truncation=True, max_length=context)["input_ids"] for text in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
