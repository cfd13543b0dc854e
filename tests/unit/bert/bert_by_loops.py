"""The rules of BERT features and of the SQuAD score once more, as plain loops that the tests compare with."""

from __future__ import annotations

import re
import string
import unicodedata

SPECIAL = ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]


def is_cjk(char: str) -> bool:
    """CJK ideographs: the basic block, extensions A to E and the two compatibility blocks."""
    blocks = "3400-4DBF 4E00-9FFF F900-FAFF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B820-2CEAF 2F800-2FA1F"
    return any(int(a, 16) <= ord(char) <= int(b, 16) for a, b in (block.split("-") for block in blocks.split()))


def basic(text: str) -> list[str]:
    clean = ""
    for char in text:
        category = unicodedata.category(char)
        if char in " \t\n\r" or category == "Zs":
            clean += " "
        elif category[0] != "C" and char != "\ufffd":
            clean += " " + char + " " if is_cjk(char) else char
    tokens = []
    for word in clean.split():
        if word in SPECIAL:
            tokens.append(word)
            continue
        current = ""
        for char in unicodedata.normalize("NFD", word.lower()):
            if unicodedata.category(char) == "Mn":
                continue
            if char in string.punctuation or unicodedata.category(char)[0] == "P":
                tokens += [current, char]
                current = ""
            else:
                current += char
        tokens.append(current)
    return [token for token in tokens if token]


def pieces(text: str, vocab: list[str]) -> list[str]:
    out = []
    for part in re.split(r"(\[UNK\]|\[SEP\]|\[PAD\]|\[CLS\]|\[MASK\])", text):
        for token in [part] if part in SPECIAL else basic("".join(char.lower() for char in part)):
            rest, found = token, []
            while rest and token not in SPECIAL:
                sized = [rest[:n] for n in range(len(rest), 0, -1)]
                hit = next((s for s in sized if ("##" + s if found else s) in vocab), None)
                if hit is None or len(token) > 100:
                    found = ["[UNK]"]
                    break
                found.append("##" + hit if found else hit)
                rest = rest[len(hit) :]
            out += found or [token]
    return out


def words_of(context: str) -> list[str]:
    return [word for word in re.split("[ \t\r\n\u202f]", context) if word]


def features(contexts, questions, vocab, max_seq_length=384, doc_stride=128, max_query_length=64):
    """One dict per feature; ``questions`` are (text, context index)."""
    out = []
    for number, (text, context) in enumerate(questions):
        query = ["[CLS]", *pieces(text, vocab)[:max_query_length], "[SEP]"]
        document = [(p, i) for i, word in enumerate(words_of(contexts[context])) for p in pieces(word, vocab)]
        room = max_seq_length - len(query) - 1
        spans, start = [], 0
        while start < len(document):
            spans.append((start, min(start + room, len(document))))
            if spans[-1][1] == len(document):
                break
            start += min(room, doc_stride)

        def value(span, at):
            a, b = span
            return min(at - a, b - 1 - at) + 0.01 * (b - a) if a <= at < b else -1.0

        for a, b in spans:
            best = [max(spans, key=lambda span, at=at: value(span, at)) == (a, b) for at in range(a, b)]
            out.append(
                {
                    "question": number,
                    "first_segment": len(query),
                    "tokens": query + [piece for piece, _ in document[a:b]] + ["[SEP]"],
                    "word": [-1] * len(query) + [word for _, word in document[a:b]] + [-1],
                    "max_context": [False] * len(query) + best + [False],
                }
            )
    return out


def original_text(said: str, original: str) -> str:
    joined = " ".join(basic(original))
    if not said or said not in joined:
        return original
    kept = [i for i, char in enumerate(original) if char != " "]
    if len(kept) != len(joined.replace(" ", "")):
        return original
    before = len(joined[: joined.index(said)].replace(" ", ""))
    return original[kept[before] : kept[before + len(said.replace(" ", "")) - 1] + 1]


def predictions(contexts, questions, found, responses) -> list[str]:
    """``responses``: for each feature a list of (start logit, end logit)."""
    texts = []
    for number, (_, context) in enumerate(questions):
        best, answer = None, "empty"
        for feature, response in zip(found, responses, strict=True):
            if feature["question"] != number:
                continue
            padded = list(response) + [(-10000.0, -10000.0)] * (384 - len(response))
            starts = sorted(range(384), key=lambda i: -padded[i][0])[:20]
            ends = sorted(range(384), key=lambda i: -padded[i][1])[:20]
            for s in starts:
                for e in ends:
                    if not (s <= e < s + 30 and e < len(feature["tokens"])):
                        continue
                    if feature["word"][s] < 0 or feature["word"][e] < 0 or not feature["max_context"][s]:
                        continue
                    total = padded[s][0] + padded[e][1]
                    if best is None or total > best:
                        best = total
                        said = " ".join(feature["tokens"][s : e + 1]).replace(" ##", "").replace("##", "")
                        span = words_of(contexts[context])[feature["word"][s] : feature["word"][e] + 1]
                        answer = original_text(" ".join(said.split()), " ".join(span))
        texts.append(answer)
    return texts


def answer_score(prediction: str, answers: list[str]) -> tuple[bool, float]:
    def tokens(text):
        text = "".join(char for char in text.lower() if char not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    exact, best = False, 0.0
    for answer in answers:
        said, truth = tokens(prediction), tokens(answer)
        exact = exact or said == truth
        left, same = list(truth), 0
        for word in said:
            if word in left:
                left.remove(word)
                same += 1
        if same:
            best = max(best, 2 * same / (len(said) + len(truth)))
    return exact, best
