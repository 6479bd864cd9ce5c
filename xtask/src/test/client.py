"""OpenAI's Python client against the queen. Each check prints one line; the first failure ends it."""

import os

import openai

client = openai.OpenAI(max_retries=0, timeout=120)
model, text = os.environ["MODEL"], os.environ["TEXT"]
question = [{"role": "user", "content": "Tell me a story."}]


def recited(answer):
    assert answer and text.startswith(answer.strip()), f"not the beginning of the text: {answer!r}"


cards = client.models.list().data
assert any(card.id == model for card in cards) or not cards, cards
print("ok models")

whole = client.chat.completions.create(model=model, messages=question, max_tokens=24, temperature=0)
recited(whole.choices[0].message.content)
assert whole.choices[0].finish_reason == "length", whole.choices[0].finish_reason
assert whole.usage.completion_tokens == 24, whole.usage
assert whole.model == model, whole.model
print("ok chat")

pieces, reasons = [], []
for chunk in client.chat.completions.create(
    model=model, messages=question, max_tokens=24, temperature=0, stream=True
):
    for choice in chunk.choices:
        pieces.append(choice.delta.content or "")
        reasons.append(choice.finish_reason)
recited("".join(pieces))
assert len([piece for piece in pieces if piece]) > 1, "the stream came in one piece"
assert reasons[-1] == "length", reasons
assert "".join(pieces) == whole.choices[0].message.content, "streamed and whole differ"
print("ok chat, streamed")

completion = client.completions.create(model=model, prompt="Tell me", max_tokens=8, temperature=0)
recited(completion.choices[0].text)
print("ok completion")

for wrong, error in (("no model;", openai.BadRequestError), ("file:/nowhere/at/all.gguf", openai.APIStatusError)):
    try:
        client.chat.completions.create(model=wrong, messages=question)
    except error as seen:
        assert seen.body and seen.body.get("message"), seen.body
    else:
        raise AssertionError(f"{wrong} was served")
print("ok errors")

with client.chat.completions.create(
    model=model, messages=question, max_tokens=20_000, temperature=0, stream=True
) as stream:
    next(iter(stream))
again = client.chat.completions.create(model=model, messages=question, max_tokens=4, temperature=0)
recited(again.choices[0].message.content)
print("ok leaving in the middle")
