"""Which architecture fits records of a form, where nobody has chosen one."""

from mia_lightning.datasets.form import Form


def fitting(form: Form) -> str | None:
    """The name of an architecture in `conf/model` that takes such records; None where there is none.

    A table of numbers and categories goes to `tabular`, and so do numbers with names, whose scales differ, or with
    gaps; tokens go to `text_cnn`, a waveform to `audio_cnn`, an image to `cnn`, other quantities to `mlp`. Tokens, a
    waveform and an image must be the whole record.
    """
    kinds = {field.kind for field in form.fields}
    if not form.is_one:
        return "tabular" if kinds <= {"numeric", "category"} else None
    of_table = any(field.columns or field.has_gaps for field in form.fields)
    by_kind = {
        "tokens": "text_cnn",
        "waveform": "audio_cnn",
        "image": "cnn",
        "numeric": "tabular" if of_table else "mlp",
    }
    return by_kind.get(kinds.pop())
