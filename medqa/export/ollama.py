"""An Ollama Modelfile for a GGUF file: the chat template in Ollama's form, and how `evaluate` answers."""

from typing import TYPE_CHECKING

from medqa import prompts
from medqa.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from medqa.chat import ChatFormat

SYSTEM, USER, ANSWER = "{{ .System }}", "{{ .Prompt }}", "{{ .Response }}"


def modelfile(tok: "PreTrainedTokenizerBase", format: "ChatFormat", file: str, max_new_tokens: int) -> str:
    """The Modelfile of a GGUF file. Raises UserError for a chat template that Ollama's form cannot hold."""
    template = turn_template(tok)
    system = prompts.default_system(tok)
    lines = [f"FROM ./{file}", f'TEMPLATE """{template}"""']
    if system:
        lines.append(f'SYSTEM """{system}"""')
    lines += [f'PARAMETER stop "{end}"' for end in format.ends]
    lines += ["PARAMETER temperature 0", f"PARAMETER num_predict {max_new_tokens}"]
    if format.context:
        lines.append(f"PARAMETER num_ctx {format.context}")
    return "\n".join(lines) + "\n"


def turn_template(tok: "PreTrainedTokenizerBase") -> str:
    """A question with its answer, which Ollama repeats, and a system prompt before the first.

    Raises UserError unless that gives what the Jinja template gives.
    """

    def render(*turns: tuple[str, str], prompt: bool = False) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)

    question, answer = ("user", "\0user\0"), ("assistant", "\0answer\0")
    system = prompts.default_system(tok)
    first = render(question, answer)
    head, begin = "", first.partition(question[1])[0]
    if system:
        head, _, begin = begin.partition(system)
        close, begin = _split_close(begin, render(question, answer, question), first)
        head = f"{head}{SYSTEM}{close}"
    middle = first.partition(question[1])[2].partition(answer[1])[0]
    end = first.partition(answer[1])[2]
    again = render(question, answer, question, prompt=True)
    lead = head.replace(SYSTEM, system)
    if lead + (turn := f"{begin}{question[1]}{middle}{answer[1]}{end}") != first or (
        again != f"{lead}{turn}{begin}{question[1]}{middle}"
    ):
        raise UserError(
            f"{tok.name_or_path}: its chat template is more than a system prompt and equal turns, and fits "
            "no Ollama Modelfile; export with --format merged"
        )
    condition = f"{{{{ if .System }}}}{head}{{{{ end }}}}" if head else ""
    return f"{condition}{begin}{USER}{middle}{ANSWER}{end}"


def _split_close(rest: str, repeated: str, first: str) -> tuple[str, str]:
    """What ends a system prompt, and what begins a question, of the text between the two."""
    begin = repeated.removeprefix(first).partition("\0user\0")[0]
    return rest.removesuffix(begin), begin
