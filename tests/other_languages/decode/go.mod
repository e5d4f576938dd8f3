module starlingmesh.dev/tests/other_languages/decode

go 1.24.0

require (
	github.com/vmihailenco/msgpack/v5 v5.4.1
	google.golang.org/protobuf v1.36.5
)

require github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
