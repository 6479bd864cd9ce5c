//! The messages of a chat request.

use serde_json::{Map, Value};

use crate::engine::{Message, Prompt};
use crate::error::ApiError;
use crate::request::Fields;

/// The conversation a body asks about.
pub(crate) fn prompt(fields: &Fields<'_>) -> Result<Prompt, ApiError> {
    let messages = match fields.get("messages") {
        None => return Err(ApiError::parameter("messages", "is missing")),
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(_) => return Err(ApiError::parameter("messages", "must be a list of at least one message")),
    };
    let messages =
        messages.iter().enumerate().map(|(i, value)| message(i, value)).collect::<Result<Vec<_>, _>>()?;
    // The name is vLLM's. Its `add_generation_prompt` says nothing that this does not.
    let continue_last = fields.truth("continue_final_message")?;
    if continue_last && messages.last().is_none_or(|last| last.role != "assistant") {
        return Err(ApiError::parameter("continue_final_message", "needs a last message of the assistant"));
    }
    Ok(Prompt::Chat { messages, continue_last })
}

fn message(index: usize, value: &Value) -> Result<Message, ApiError> {
    let name = |field: &str| format!("messages[{index}].{field}");
    let Some(fields) = value.as_object() else {
        return Err(ApiError::parameter(&format!("messages[{index}]"), "must be an object"));
    };
    let role = match fields.get("role").and_then(Value::as_str) {
        // Templates know the older name only.
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant")) => role,
        Some("tool" | "function") => return Err(ApiError::unsupported(&name("role"))),
        _ => return Err(ApiError::parameter(&name("role"), "must be system, user or assistant")),
    };
    for refused in ["tool_calls", "function_call", "audio"] {
        if fields
            .get(refused)
            .is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|all| !all.is_empty()))
        {
            return Err(ApiError::unsupported(&name(refused)));
        }
    }
    Ok(Message { role: role.to_owned(), content: content(&name("content"), fields)? })
}

/// A text, or parts that are texts and belong together.
fn content(name: &str, fields: &Map<String, Value>) -> Result<String, ApiError> {
    let parts = match fields.get("content") {
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(parts)) => parts,
        _ => return Err(ApiError::parameter(name, "must be a string or a list of text parts")),
    };
    let mut content = String::new();
    for part in parts {
        match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
            (Some("text"), Some(text)) => content.push_str(text),
            (Some("text") | None, _) => {
                return Err(ApiError::parameter(name, "must be a string or a list of text parts"));
            }
            (Some(other), _) => return Err(ApiError::unsupported(&format!("{name} of type {other}"))),
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<Prompt, String> {
        let fields = body.as_object().unwrap();
        prompt(&Fields(fields)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_put_to_the_model_is_refused_by_name() {
        let one = |message: Value| json!({"messages": [message]});
        let cases = [
            (json!({}), "messages is missing"),
            (json!({"messages": []}), "messages must be a list of at least one message"),
            (one(json!("hi")), "messages[0] must be an object"),
            (
                one(json!({"role": "bee", "content": "hi"})),
                "messages[0].role must be system, user or assistant",
            ),
            (
                one(json!({"role": "tool", "content": "hi"})),
                "messages[0].role is not supported by this worker",
            ),
            (one(json!({"role": "user"})), "messages[0].content must be a string or a list of text parts"),
            (
                one(json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})),
                "messages[0].content of type image_url is not supported by this worker",
            ),
            (
                one(json!({"role": "assistant", "content": "a", "tool_calls": [{}]})),
                "messages[0].tool_calls is not supported by this worker",
            ),
            (
                json!({"messages": [{"role": "user", "content": "a"}], "continue_final_message": true}),
                "continue_final_message needs a last message of the assistant",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(parse(&body).unwrap_err(), expected, "{body}");
        }
    }
}
