"""Tokenization of captions as by Stanford's PTBTokenizer 3.4.1, without Java.

One difference remains: if a caption ends in an abbreviation, Java reads the next caption to interpret the dot.
"""

import html
import re

_WORD = r"[^\W\d_][^\W_]*"
_CLITIC = r"'(?:s|m|d|re|ve|ll)(?![^\W\d_])"
_BEFORE_NAMES = "mrs?|ms|drs?|profs?|lt|col|gen|rev|sgt|capt|st|mt|ft|ave|blvd|rd|dept|vs|a\\.k\\.a"
_SENTENCE = "An?|The|This|That|There|These|They|It|Its|In|On|At|He|She|His|Her|One|Two|Some|Many|We|You|All|Another"
_MONTHS = "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
_BEFORE_WORDS = f"{_MONTHS}|mon|tues?|wed|thurs?|fri|inc|cos?|corp|ltd|jr|sr|etc|est|ext"

# The first that matches is taken, so what is longer stands first.
_TOKEN = re.compile(
    rf"""
    (?:https?|ftp)://\S+[\w/] | www\.\S+\w | [\w.%+-]+@[\w-]+(?:\.[\w-]+)+ | (?:[\w-]+\.)+(?:com|net|org|edu)\b
  | <[/!?]?[a-z][^<>]*>                                        # a tag
  | can(?=not) | gon(?=na\b) | got(?=ta\b) | wan(?=na\b) | gim(?=me\b) | lem(?=me\b) | 't(?=(?:is|was)\b)
  | [a-z]*[a-mo-z](?=n't\b) | n't\b                            # do n't
  | {_WORD}(?={_CLITIC}) | {_CLITIC}                           # dog 's
  | '[2-9]0s | '[0-9][0-9](?=\s) | o'clock | 'n'? | y'(?=\w) | ol' | '(?:em|till?|cause)
  | [a-hj-xz]'[a-z]{{2,}}\w* | [a-z]*[aeiouy]'[aeiou][a-z]*    # o'brien, shi'ite
  | \d{{1,4}}[-\ ]\d{{1,4}}/\d{{1,4}} | \d{{1,2}}/\d{{1,2}}/\d{{2,4}}
  | \w[\w.,]*(?:[-_‐](?:\w+|(?:[a-z]\.)+[a-z]))+                   # t-shirt
  | \w+(?:-[a-z]+){{0,2}}(?:/\w+(?:-[a-z]+){{0,2}}){{1,2}}     # and/or
  | (?:{_BEFORE_NAMES})\. | (?:{_BEFORE_WORDS})\. | nos?\.(?=\ ?\d)
  | [a-z](?:\.[a-z])+\.(?!\w) | [a-z]\.(?![\w.]|\ (?-i:{_SENTENCE})\ )   # u.s., plan b.
  | [-+]?(?:\d+(?:[.,:]\d+)+ | (?:[.,]\d+)+ | \d+(?![^\W_]))
  | [#@][a-z]\w*
  | [<>]?[:;=][-o*']?[()DPdpO{{@|\[\]](?![^\W_])               # :-)
  | (?-i:[A-Z]+(?:&[A-Z]+)+) | &(?:amp|lt|gt|quot|apos);
  | -[lr][rcs]b-
  | {_WORD}(?:\.{_WORD})*                                      # end.next
  | [^\W_]+
  | \.\.\.+ | -+ | [?!]+ | '' | `` | \*+ | _+ | \#+ | @+ | =+ | << | >>
  | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)

_SPELLED = str.maketrans(
    {"’": "'", "‘": "'", "“": "''", "”": "''", '"': "''", "–": "--", "—": "--", "…": "...", "£": "#", "€": "$"}
    | {"½": "1/2", "¼": "1/4", "¾": "3/4", "\xad": None}
)
_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", " ": "\xa0"}


def tokenize(caption: str) -> str:
    """Lowercase a caption and put blanks between its tokens; emoji are dropped, as by Java."""
    plain = "".join(char for char in caption.translate(_SPELLED) if char <= "\uffff")
    return " ".join(map(_written, _TOKEN.findall(plain)))


def _written(token: str) -> str:
    token = "--" if token in ("---", "----") else html.unescape(token).lower()
    return "".join(_WRITTEN.get(char, char) for char in token)
