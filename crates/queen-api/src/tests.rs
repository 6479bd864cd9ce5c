use super::*;

#[test]
fn infer_events_keep_their_shape() {
    let events = [
        InferEvent::Queued { ahead: 2 },
        InferEvent::Loading { stage: LoadingStage::Downloading, progress: Some(0.25) },
        InferEvent::Loading { stage: LoadingStage::Starting, progress: None },
        InferEvent::Started {
            request_id: "r-1".parse().unwrap(),
            model: "hf:a/b".into(),
            worker_id: "w-1".parse().unwrap(),
            hive_id: "local".parse().unwrap(),
            attempts: 1,
            queued_ms: 12,
        },
        InferEvent::Token { t: "Hello".into(), i: 0 },
        InferEvent::End { tokens_out: 12, decode_time_ms: 34, stop_reason: StopReason::Length, continued: 0 },
        ErrorDetail::new(ErrorCode::WorkerFailed, "worker w-1 of hive local ended").into(),
    ];
    let lines: Vec<_> = events.iter().map(|e| serde_json::to_string(e).unwrap()).collect();
    insta::assert_snapshot!(lines.join("\n"));
    for (event, line) in events.iter().zip(&lines) {
        assert_eq!(&serde_json::from_str::<InferEvent>(line).unwrap(), event);
    }
}

#[test]
fn an_infer_request_needs_model_and_prompt_only_and_refuses_unknown_fields() {
    let request: InferRequest = serde_json::from_str(r#"{"model":"a/b","prompt":"hi"}"#).unwrap();
    assert_eq!((request.max_tokens, request.stream), (256, true));
    let error =
        serde_json::from_str::<InferRequest>(r#"{"model":"a/b","prompt":"hi","max_token":1}"#).unwrap_err();
    assert!(error.to_string().contains("max_token"), "{error}");
}

#[test]
fn every_code_reads_back_and_has_an_error_status() {
    for code in ErrorCode::ALL {
        let json = serde_json::to_string(code).unwrap();
        assert_eq!(json, format!("\"{}\"", code.as_str()));
        assert_eq!(&serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
        assert!((400..600).contains(&code.status()));
    }
    assert_eq!(serde_json::from_str::<ErrorCode>("\"of_tomorrow\"").unwrap(), ErrorCode::Unknown);
}

#[test]
fn openai_errors_keep_their_shape() {
    let bodies: Vec<_> =
        [ErrorCode::InvalidRequest, ErrorCode::Unauthorized, ErrorCode::QueueFull, ErrorCode::NoHive]
            .into_iter()
            .map(|code| serde_json::to_string(&OpenAiErrorBody::from(ErrorDetail::new(code, "why"))).unwrap())
            .collect();
    insta::assert_snapshot!(bodies.join("\n"));
}

#[test]
fn a_log_is_named_by_its_hive_or_worker() {
    for text in ["hive:box", "worker:box/w-1"] {
        assert_eq!(text.parse::<LogSource>().unwrap().to_string(), text);
    }
    for text in ["", "box", "hive:", "hive:a b", "worker:box", "worker:box/", "worker:/w-1", "queen:box"] {
        assert!(text.parse::<LogSource>().is_err(), "{text}");
    }
}
