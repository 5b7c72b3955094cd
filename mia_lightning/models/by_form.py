"""Which architecture fits records of a form, where nobody has chosen one."""

from mia_lightning.datasets.form import Form


def fitting(form: Form) -> str | None:
    """The name of an architecture in `conf/model` that takes such records; None where there is none.

    A table of numbers and categories goes to `tabular`, tokens to `text_cnn`, a waveform to `audio_cnn`, an image to
    `cnn`, other quantities to `mlp`. Tokens, a waveform and an image must be the whole record.
    """
    kinds = {field.kind for field in form.fields}
    if not form.is_one:
        return "tabular" if kinds <= {"numeric", "category"} else None
    by_kind = {"tokens": "text_cnn", "waveform": "audio_cnn", "image": "cnn", "numeric": "mlp"}
    return None if form.fields[0].has_gaps else by_kind.get(kinds.pop())
