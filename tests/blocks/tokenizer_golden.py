"""Writes tests/data/tokenizer_golden.json: small tokenizers, and what Hugging Face `tokenizers` makes of texts with them.

    pip install tokenizers        (0.23.3 made the file that is kept)
    python3 tests/blocks/tokenizer_golden.py ../shared/data
"""

import json
import pathlib
import random
import string
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = pathlib.Path(sys.argv[1])
OUTPUT = pathlib.Path(__file__).parent.parent / "data" / "tokenizer_golden.json"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SHAKESPEARE = (DATA / "tinyshakespeare" / "input.txt").read_text()
MULTILINGUAL = "naïve café 中文字符 日本語 😀😃 12345 67 x=3.14; don't I'll WE'VE  \n\n\t tab\r\n  "
CORPUS = [SHAKESPEARE[i:i + 5000] for i in range(0, 200000, 5000)] + [MULTILINGUAL] * 30

TEXTS = [
    "", " ", "   ", "\n", "hello", " hello  world ", "Hello, world!", "a\n\n b\r\n\r\n  c\t\td   \n e", "x \u00a0\u2003 y",
    "don't DON'T I'll we'Ve he'D it'ſ 's", "1 12 123 1234 12345 3.14159 ½ ٣٤٥ Ⅷ", "naïve café El Niño ßﬁ e\u0301", "中文字符，日本語。",
    "😀😃 👩‍👩‍👧🇩🇪 \U0010ffff", "<|begin_of_text|>a<|eot_id|>b <|eot_id|>x<|eot_id", "<s>a</s> <s> </s>b<unk>c <0x0A>",
    "king a king kingking aking", "the Capulet,Capulet né", "▁a ▁▁ b", "\x00\x01\x7f\x85\u2028\u180e\u200b\ufffd",
    "a      b\n      c  ", "!!!...---\n\n--- ?!\r\n", " qzqzx", "qzqzxqzqzx", SHAKESPEARE[:600], MULTILINGUAL,
    "for (int i = 0; i < n; ++i) {\n\tsum += x[i];\n}\n",
]

ZWJ, VS16 = "\u200d", "\ufe0f"
TEXTS += [  # emoji with joiners, skin tones, flags, tags and keycaps
    f"👨{ZWJ}👩{ZWJ}👧{ZWJ}👦 👩🏽{ZWJ}💻👍🏿 🏳{VS16}{ZWJ}🌈 🇩🇪🇫🇷🇩 1{VS16}\u20e3 ❤{VS16}❤ 🏴\U000e0067\U000e0062\U000e0065\U000e007f{ZWJ}",
    # scripts beside each other, without spaces, right to left, combining, with joiners of their own
    "aбγדהجदกあア漢한Ꭰѣ latinкириллицаελληνικά עברית العربية١٢٣ हिन्दी ไทย中文ひらがな한국어", "क\u094d\u200dष ক্ষ می\u200cخواهم e\u0301a\u0308\u0323 ÅÅ ﷽ ǅ ʰ",
    "I\u0307'S İ'ſſ 'ﬅ K'll ’s 'RE'Ve'lL'Mm''d'", " " * 100 + "a" + " " * 33 + "\n" + " " * 20 + "b" + " " * 7, "\t \t\n \r\n\r \n\n\u2028 \u2029\u3000\u00a0 \x0b\x0c\x1c\x85.",
    "1" * 50 + " 1,234,567.89e-10 0x1F ٠١٢٣٤٥ १२३ ⅠⅡⅢ ½¾²³ ①② 〇一二 \U0001d7d8\U0001d7d9", "a1b22c333d4444e55555 v1.2.3-rc4", "\n" * 40 + "x" + "\r\n" * 9 + "!\n\n?\r\r ...\n",
    # assigned in Unicode 15, 15.1 and 16: letters, digits
    "\U00031350\U000323afx \U0002ebf0\U0002ee5d \U0001e4d0\U0001e4f0\U0001e4f9 \u1c89\u1c8a\ua7cb \U00011f02\U00011f501 \U0001ccf0\U000105c0\U00013460",
]


def categories():
    """A text for each of Unicode's categories: characters from all over its range, before and after others."""
    members = {}
    for code_point in range(0x110000):
        members.setdefault(unicodedata.category(chr(code_point)), []).append(chr(code_point))
    del members["Cs"]  # surrogates, which UTF-8 has not
    for category in sorted(members):
        of = members[category]
        chosen = [of[i * (len(of) - 1) // 5] for i in range(6)] if len(of) > 1 else of
        yield "".join(f"a{c} {c}b 1{c}{c}\n" for c in chosen)


TEXTS += categories()

# Bytes that are no UTF-8: stray, overlong, surrogates, over U+10FFFF, cut off.
INVALID = [b"\xff", b"a\x80b\xbf\xbf c", b"\xc0\xaf\xe0\x80\xaf \xf0\x80\x80\xaf", b"\xed\xa0\x80x\xed\xb0\x80", b"\xf4\x90\x80\x80 \xf5\xff",
           b"caf\xe9 na\xefve", b"\xe2\x82", b"x\xf0\x9f\x98 y\xf0\x9f\x98\x80\xf0\x9f", b"\xc3\xa9\xc3(\xe4\xb8(\xe4\xb8\xad", b"<s>\xfe</s>\xe2\x96 \xe2\x96\x81"]


def byte_level(pre_tokenizer, special, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=256 + 300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return tokenizer


def llama3():
    tokenizer = byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        [], ignore_merges=True)
    description = json.loads(tokenizer.to_str())
    vocab = description["model"]["vocab"]
    vocab["Ġqzqzx"] = len(vocab)  # a word that no merge makes
    tokenizer = Tokenizer.from_str(json.dumps(description))
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eot_id|>x"]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    tokenizer.add_tokens(["Capulet", AddedToken("né", normalized=False)])
    bos = tokenizer.token_to_id(special[0])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(f"{special[0]} $A", None, [(special[0], bos)])])
    return tokenizer


def qwen2():
    return byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), ["<|endoftext|>", "<|im_end|>"])


def sentence_piece(normalizer, pre_tokenizer, byte_fallback, fuse_unk):
    """As llama 2's are converted: spaces are ▁, the space at the start is put in and taken off again."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse_unk, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    tokenizer.train_from_iterator(CORPUS[:-30], trainers.BpeTrainer(
        vocab_size=len(bytes_) + 300, special_tokens=special + bytes_, limit_alphabet=60, show_progress=False))
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] in special]
    description["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(description))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " ")] + ([decoders.ByteFallback()] if byte_fallback else [])
        + [decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    tokenizer.add_tokens([AddedToken("king", normalized=True)])
    return tokenizer


def characters():
    model = models.BPE(vocab={c: i for i, c in enumerate("\n " + string.ascii_letters + string.digits)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def spaces_to_mark():
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def metaspace(scheme, split):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)


def invalid(tokenizer):
    tokenizer.encode_special_tokens = False
    return [{"bytes": text.hex(), "ids": tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False).ids}
            for text in INVALID]


def cases(tokenizer, texts, rng):
    encodes, decodes = [], []
    for text in texts:
        for parse_special in (True, False) if "<" in text else (True,):
            tokenizer.encode_special_tokens = not parse_special
            add_bos = rng.random() < 0.5
            ids = tokenizer.encode(text, add_special_tokens=add_bos).ids
            encodes.append({"text": text, "add_bos": add_bos, "parse_special": parse_special, "ids": ids})
            decodes += [{"ids": ids, "skip_special": skip, "text": tokenizer.decode(ids, skip_special_tokens=skip)}
                        for skip in (True, False)]
    for _ in range(20):  # mostly not UTF-8
        ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(8)]
        decodes.append({"ids": ids, "skip_special": True, "text": tokenizer.decode(ids)})
    return {"encode": encodes, "decode": decodes}


def main():
    rng = random.Random(1)
    tokenizers = {
        "llama3": llama3(),
        "qwen2": qwen2(),
        "gpt2": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), ["<|endoftext|>"]),
        "llama2": sentence_piece(spaces_to_mark(), None, True, True),
        "metaspace_first": sentence_piece(None, metaspace("first", False), True, False),
        "metaspace_always": sentence_piece(None, metaspace("always", True), False, True),
        "metaspace_never": sentence_piece(None, metaspace("never", True), False, False),
        "characters": characters(),
    }
    known = set("\n " + string.ascii_letters + string.digits)
    golden = {}
    for name, tokenizer in tokenizers.items():
        texts = [t for t in TEXTS if set(t) <= known] if name == "characters" else TEXTS
        golden[name] = {"tokenizer": json.loads(tokenizer.to_str()), **cases(tokenizer, texts, rng)}
        if name != "characters":
            golden[name]["invalid"] = invalid(tokenizer)

    stories = Tokenizer.from_file(str(DATA / "stories260k" / "tokenizer.json"))
    lines = [json.loads(line)["text"] for line in open(DATA / "stories260k" / "valid.jsonl")]
    golden["stories260k"] = {**cases(stories, TEXTS, rng),
                             "lines": {str(i): stories.encode(lines[i]).ids for i in range(0, len(lines), 40)}}
    OUTPUT.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
