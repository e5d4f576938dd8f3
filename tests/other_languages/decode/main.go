// Command decode reads frames as they lie in a mailbox, and prints each of their messages as a line of JSON.
//
//	decode DESCRIPTORS FRAME...
//
// DESCRIPTORS: a file with a FileDescriptorSet, as protoc --descriptor_set_out writes it. FRAME: the data of one message
// of a mailbox, without its NATS headers. A program that has the generated code of its messages needs no descriptors.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/vmihailenco/msgpack/v5"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Envelope has the names of envelope.schema.json that this program shows; msgpack leaves the others out.
type Envelope struct {
	ID          string            `msgpack:"i"`
	Type        string            `msgpack:"t"`
	Body        []byte            `msgpack:"b"`
	Target      []string          `msgpack:"a"`
	ContentType string            `msgpack:"ct"`
	Headers     map[string]string `msgpack:"h"`
	Large       []any             `msgpack:"bb"`
}

// Shown is one line of the output.
type Shown struct {
	ID      string            `json:"id"`
	Type    string            `json:"type"`
	Target  []string          `json:"target"`
	Headers map[string]string `json:"headers,omitempty"`
	Message json.RawMessage   `json:"message"`
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: decode DESCRIPTORS FRAME...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "decode:", err)
		os.Exit(1)
	}
}

func run(descriptors string, frames []string) error {
	types, err := readTypes(descriptors)
	if err != nil {
		return err
	}
	output := json.NewEncoder(os.Stdout)
	for _, name := range frames {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var envelopes []Envelope
		if err := msgpack.Unmarshal(data, &envelopes); err != nil {
			return fmt.Errorf("%s is no frame: %w", name, err)
		}
		for _, envelope := range envelopes {
			message, err := decoded(types, envelope)
			if err != nil {
				return fmt.Errorf("%s, message %s: %w", name, envelope.ID, err)
			}
			if err := output.Encode(Shown{envelope.ID, envelope.Type, envelope.Target, envelope.Headers, message}); err != nil {
				return err
			}
		}
	}
	return nil
}

func readTypes(name string) (*protoregistry.Files, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return nil, fmt.Errorf("%s holds no descriptors: %w", name, err)
	}
	return protodesc.NewFiles(set)
}

// decoded returns the body as JSON: its type's name is that of the protobuf message.
func decoded(types *protoregistry.Files, envelope Envelope) (json.RawMessage, error) {
	if envelope.Large != nil {
		return nil, fmt.Errorf("its body is in the object store, as %v", envelope.Large)
	}
	if envelope.ContentType != "" && envelope.ContentType != "application/protobuf" {
		return nil, fmt.Errorf("content type %q is not protobuf", envelope.ContentType)
	}
	found, err := types.FindDescriptorByName(protoreflect.FullName(envelope.Type))
	if err != nil {
		return nil, err
	}
	kind, ok := found.(protoreflect.MessageDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no message", envelope.Type)
	}
	message := dynamicpb.NewMessage(kind)
	if err := proto.Unmarshal(envelope.Body, message); err != nil {
		return nil, err
	}
	return protojson.Marshal(message)
}
