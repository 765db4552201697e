"""Our .proto files against the protocol as tritonclient ships it, and the generated modules against their source."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor

from nightshift.serving import health_pb2, inference_pb2
from tests.serving import venv

SERVING = Path(inference_pb2.__file__).parent
DUMP = """
import sys
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2
found = descriptor_pb2.FileDescriptorSet()
for module in (model_config_pb2, service_pb2):
    module.DESCRIPTOR.CopyToProto(found.file.add())
sys.stdout.buffer.write(found.SerializeToString())
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pb2.FileDescriptorSet:
    """The files that tritonclient's modules were made from."""
    python = venv.make(tmp_path_factory.mktemp("tritonclient") / "venv", *venv.TRITON)
    dumped = subprocess.run([python, "-c", DUMP], capture_output=True, check=True).stdout
    return descriptor_pb2.FileDescriptorSet.FromString(dumped)


def _fields(message: Descriptor) -> dict[str, tuple]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type.full_name if field.message_type else None,
            field.enum_type.full_name if field.enum_type else None,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in message.fields
    }


def _messages(messages) -> list[Descriptor]:
    return [found for message in messages for found in (message, *_messages(message.nested_types))]


def test_every_field_method_and_enum_value_is_the_protocols(theirs) -> None:
    pool = descriptor_pool.DescriptorPool()
    for file in theirs.file:
        pool.Add(file)
    ours = inference_pb2.DESCRIPTOR
    compared = 0
    for message in _messages(ours.message_types_by_name.values()):
        same = _fields(pool.FindMessageTypeByName(message.full_name))
        for name, field in _fields(message).items():
            assert (message.full_name, name, *field) == (message.full_name, name, *same[name])
            compared += 1
    assert compared > 90
    for enum in ours.enum_types_by_name.values():
        same_enum = pool.FindEnumTypeByName(enum.full_name)
        assert {v.name: v.number for v in enum.values} == {v.name: v.number for v in same_enum.values}
    service = ours.services_by_name["GRPCInferenceService"]
    same_methods = pool.FindServiceByName(service.full_name).methods_by_name
    for method in service.methods:
        same_method = same_methods[method.name]
        assert method.input_type.full_name == same_method.input_type.full_name
        assert method.output_type.full_name == same_method.output_type.full_name


def test_a_message_of_inference_is_whole(theirs) -> None:
    """Only messages about a server's own settings are shortened; what carries tensors has every field."""
    pool = descriptor_pool.DescriptorPool()
    for file in theirs.file:
        pool.Add(file)
    for name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents", "InferParameter"):
        for message in _messages([inference_pb2.DESCRIPTOR.message_types_by_name[name]]):
            assert _fields(message) == _fields(pool.FindMessageTypeByName(message.full_name))


def test_another_copy_of_the_protocol_may_live_in_the_same_process(theirs) -> None:
    for file in theirs.file:
        descriptor_pool.Default().Add(file)  # what importing tritonclient does
    theirs_too = message_factory.GetMessageClass(
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
    )
    request = inference_pb2.ModelInferRequest(model_name="toy", raw_input_contents=[b"\0\1"])
    request.parameters["priority"].int64_param = 3
    assert theirs_too is not inference_pb2.ModelInferRequest
    again = theirs_too.FromString(request.SerializeToString())
    assert again.model_name == "toy"
    assert again.raw_input_contents == [b"\0\1"]
    assert again.parameters["priority"].int64_param == 3


def test_the_generated_modules_are_what_their_sources_give(tmp_path: Path) -> None:
    version = re.search(r"^GRPC_TOOLS := (\S+)", Path("Makefile").read_text(), re.MULTILINE)
    assert version
    python = venv.make(tmp_path / "venv", f"grpcio-tools=={version.group(1)}")
    for name in ("inference", "health"):
        shutil.copy(SERVING / f"{name}.proto", tmp_path)
    command = [python, "-m", "grpc_tools.protoc", "-I", ".", "--python_out=.", "inference.proto", "health.proto"]
    subprocess.run(command, cwd=tmp_path, check=True)
    for module in (inference_pb2, health_pb2):
        name = Path(module.__file__).name
        made = (tmp_path / name).read_text().replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")
        assert (SERVING / name).read_text() == made, f"run `make proto`: {name} is not what its source gives"


def test_the_oldest_protobuf_that_is_asked_for_loads_the_modules(tmp_path: Path) -> None:
    """tritonclient holds it back: who installs that beside the endpoint gets an older one than the lock has."""
    floor = re.search(r"^    protobuf>=([\d.]+)", Path("setup.cfg").read_text(), re.MULTILINE)
    assert floor
    python = venv.make(tmp_path / "venv", f"protobuf=={floor.group(1)}")
    subprocess.run([python, "-c", "import health_pb2, inference_pb2"], cwd=SERVING, check=True)
