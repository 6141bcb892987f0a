"""Options of the caption search."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from ..catalog import CocaConfig
from ..errors import UsageError
from ..options import ADVANCED, Option, check_limits

Method = Literal["beam", "legacy", "greedy", "top-k", "top-p"]
_advanced = partial(Option, panel=ADVANCED)
METHODS: tuple[Method, ...] = ("beam", "legacy", "greedy", "top-k", "top-p")


@dataclass(frozen=True)
class SearchOptions:
    """Options of the caption search. Lengths count every token: SOT, the prompt and EOT.

    Methods: `beam` is Hugging Face `generate` (transformers 4.57); `legacy` the beam search of open_clip 2.11 to 3.3,
    which sums raw logits; `greedy` takes the most likely token; `top-k` and `top-p` sample it.

    The keys by which runs resume contain the fields in this order.

    Raises:
        UsageError: An option is invalid for every model.
    """

    method: Annotated[
        Method,
        _advanced(
            "beam finds the most likely caption, greedy is faster, top-k and top-p sample, legacy is open_clip's beam "
            "search.",
            flags=("--search",),
            metavar="METHOD",
        ),
    ] = "beam"
    beams: Annotated[int, _advanced("Number of beams.", metavar="N", minimum=1, maximum=100)] = 6
    beam_groups: int = 3  # legacy
    max_length: Annotated[
        int, _advanced("Most tokens of a caption, including start and end.", metavar="N", minimum=2)
    ] = 30
    min_length: Annotated[
        int, _advanced("Fewest tokens of a caption, including start and end.", metavar="N", minimum=0)
    ] = 5
    length_penalty: Annotated[
        float,
        _advanced("Values above 1 favor longer captions, below 1 shorter ones.", metavar="X", minimum=-10, maximum=10),
    ] = 1.0
    repetition_penalty: Annotated[
        float,
        _advanced(
            "Values above 1 make tokens less likely that were already used.", metavar="X", minimum=0.01, maximum=100
        ),
    ] = 1.0
    no_repeat_ngram: Annotated[
        int, _advanced("Never repeat a sequence of N tokens; 0 allows it.", metavar="N", minimum=0, maximum=1000)
    ] = 0
    top_k: Annotated[
        int, _advanced("Sample among the N most likely tokens (top-k).", metavar="N", minimum=1, maximum=100_000)
    ] = 50
    top_p: Annotated[
        float, _advanced("Sample among the most likely tokens that share this probability (top-p).", metavar="P")
    ] = 0.9
    temperature: Annotated[
        float,
        _advanced(
            "Sampling temperature; values below 1 are safer, above 1 bolder (top-k, top-p).",
            metavar="T",
            minimum=0.01,
            maximum=100,
        ),
    ] = 1.0
    seed: Annotated[int, _advanced("Seed of sampling (top-k, top-p).", metavar="N", minimum=0)] = 0
    force_eot: bool = False  # greedy, top-k, top-p: captions of max_length end in EOT, as in open_clip up to 3.3
    candidates: Annotated[
        int, _advanced("Number of best captions to write for each clip.", metavar="N", minimum=1, maximum=100)
    ] = 1
    ban: Annotated[
        tuple[str, ...], _advanced("Never use this word or phrase; repeatable.", metavar="WORDS", default_shown=False)
    ] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"--search cannot be {self.method!r}; choose {', '.join(METHODS)}")
        check_limits(self)
        if self.min_length >= self.max_length:
            raise UsageError(f"--min-length {self.min_length} must be less than --max-length {self.max_length}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p} must be above 0 and at most 1")
        if self.force_eot and self.method in ("beam", "legacy"):
            raise UsageError(f"force_eot is for greedy, top-k and top-p, not for {self.method}")
        self._check_beams()
        self._check_candidates()
        if self.ban:
            self._check_ban()

    @property
    def rows(self) -> int:
        """Sequences per clip: beams or samples.

        Legacy groups are independent and find the same captions, so only one of them is searched.
        """
        if self.method == "greedy":
            return 1
        if self.method == "legacy":
            return self.beams // self.beam_groups
        return self.beams if self.method == "beam" else self.candidates

    @property
    def ranks_by_logits(self) -> bool:
        """True if tokens are ranked by logits instead of log-probabilities."""
        return self.method != "beam"

    @property
    def top_tokens(self) -> int:
        """Number of most likely tokens of a step that usually decide, so that the others need not be searched.

        Includes one for EOT, which may be forbidden, one that bounds the scores of all others, and those that filters
        may exclude.
        """
        needed = {"greedy": 1, "top-k": self.top_k, "top-p": 100}.get(self.method, 2 * self.rows)
        if self.repetition_penalty != 1 or self.no_repeat_ngram:
            needed += self.max_length
        return needed + 2 + (32 if self.ban else 0)

    def check(self, config: CocaConfig, prompt_tokens: int = 0) -> None:
        """Check the options against a model, before it is loaded.

        Args:
            prompt_tokens: Tokens of the prompt, without SOT.

        Raises:
            UsageError: The model cannot read this many tokens, or the prompt leaves no room for a caption.
        """
        if self.max_length > config.context_length:
            raise UsageError(f"--max-length {self.max_length} exceeds the {config.context_length} tokens of this model")
        if prompt_tokens + 2 > self.max_length:
            raise UsageError(
                f"--prompt has {prompt_tokens} tokens, which leave no room within --max-length {self.max_length}",
                "shorten the prompt or raise --max-length",
            )

    def _check_beams(self) -> None:
        if self.beam_groups < 1:
            raise UsageError(f"beam_groups {self.beam_groups} must be at least 1")
        if self.method == "legacy" and self.beams % self.beam_groups:
            raise UsageError(
                f"--beams {self.beams} is not a multiple of {self.beam_groups}, the groups of --search legacy",
                f"try --beams {self.beams + -self.beams % self.beam_groups}, or --search beam",
            )

    def _check_candidates(self) -> None:
        if self.candidates > self.rows:
            beams = self.candidates * (self.beam_groups if self.method == "legacy" else 1)
            raise UsageError(
                f"--candidates {self.candidates} must be at most {self.rows} with --search {self.method}",
                "try --search beam" if self.method == "greedy" else f"try --beams {beams}",
            )

    def _check_ban(self) -> None:
        from ..tokenizer import EOT_ID, SOT_ID, encode  # slow to import, and help pages need these options

        if not isinstance(self.ban, tuple):
            raise UsageError(f"ban must be a tuple of words, not {self.ban!r}")
        for words in self.ban:
            ids = encode(words)
            if not ids:
                raise UsageError(f"--ban {words!r} contains no word")
            if SOT_ID in ids or EOT_ID in ids:
                raise UsageError(f"--ban {words!r} contains a start or end token")
            if len(ids) >= self.max_length:
                raise UsageError(
                    f"--ban has a phrase of {len(ids)} tokens, which do not fit within --max-length {self.max_length}"
                )
