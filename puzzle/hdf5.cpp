#include "puzzle/hdf5.h"

#include <hdf5.h>

#include <cstring>

#include "blocks/sha256.h"
#include "kernels/error.h"

namespace tangram {
namespace {

static_assert(std::is_same_v<hid_t, int64_t> && std::is_same_v<herr_t, int>);

constexpr std::string_view kSealStart = "\nsha256 of all bytes above: ";
constexpr size_t kTextReferenceBytes = 16, kHeapHeaderBytes = 16;
constexpr hid_t kText = -1;  // stands for a type: HDF5 has many that are UTF-8 text of any length

// HDF5 prints its errors unless told otherwise; ours go into the exception.
class Quiet {
 public:
  Quiet() {
    H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Quiet() { H5Eset_auto2(H5E_DEFAULT, function_, data_); }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

// What the innermost failed call says.
std::string hdf5_message() {
  std::string message = "unknown HDF5 error";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* error, void* text) -> herr_t {
        if (n == 0 && error->desc) *static_cast<std::string*>(text) = error->desc;
        return 0;
      },
      &message);
  return message;
}

template <class T>
T checked(T result, const std::filesystem::path& path, const std::string& what, Failure kind = Failure::failed) {
  if (result < 0) throw Error(fmt::format("{}: {}: {}", path.string(), what, hdf5_message()), kind);
  return result;
}

Hdf5Id property_list(hid_t kind) { return {H5Pcreate(kind), H5Pclose}; }

Hdf5Id utf8_type(size_t size) {
  Hdf5Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, size);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

Hdf5Id create_in_memory(const std::filesystem::path& path) {
  const Quiet quiet;
  const Hdf5Id create = property_list(H5P_FILE_CREATE), access = property_list(H5P_FILE_ACCESS);
  H5Pset_obj_track_times(create, false);
  // netCDF-4 keeps its order of arrays and attributes by that of their creation.
  H5Pset_link_creation_order(create, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
  H5Pset_attr_creation_order(create, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
  // As netCDF does; and HDF5 1.10 makes no valid image of a file whose superblock has a checksum.
  H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V18);
  H5Pset_fapl_core(access, 1 << 20, false);
  return {checked(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, create, access), path, "cannot be created"), H5Fclose};
}

// Of fixed length, as netCDF writes them; c_str()'s end is stored too.
void put_text_attribute(hid_t object, const std::string& name, const std::string& value,
                        const std::filesystem::path& path) {
  const Hdf5Id type = utf8_type(value.size() + 1), space(H5Screate(H5S_SCALAR), H5Sclose);
  const Hdf5Id attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  checked(attribute < 0 ? -1 : H5Awrite(attribute, type, value.c_str()), path, "attribute " + name);
}

void put_attribute(hid_t object, const char* name, hid_t type, hsize_t count, const void* values,
                   const std::filesystem::path& path) {
  const Hdf5Id space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const Hdf5Id attribute(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  checked(attribute < 0 ? -1 : H5Awrite(attribute, type, values), path, name);
}

std::string shape_text(std::span<const size_t> shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

std::string seal_of(std::string_view image) { return fmt::format("{}{}\n", kSealStart, digest_bytes(image)); }

// The image without its seal.
std::string_view checked_image(const std::filesystem::path& path, std::string_view file) {
  const size_t start = file.rfind(kSealStart);
  if (start == file.npos || file.substr(start) != seal_of(file.substr(0, start)))
    throw bad_input(
        "{}: its last line must be the SHA-256 of the bytes above; it is damaged, cut short or was changed by another "
        "program: restore it, or delete it and run the stage that makes it",
        path.string());
  return file.substr(0, start);
}

Hdf5Id open_image(const std::filesystem::path& path, std::string_view image) {
  const Quiet quiet;
  const Hdf5Id access = property_list(H5P_FILE_ACCESS);
  H5Pset_fapl_core(access, 1 << 20, false);
  H5Pset_file_image(access, const_cast<char*>(image.data()), image.size());  // is copied
  // HDF5 wants a name that no file has; below a file there is none.
  return {checked(H5Fopen((path / "image").c_str(), H5F_ACC_RDONLY, access), path, "cannot be read as HDF5",
                  Failure::bad_input),
          H5Fclose};
}

}  // namespace

Hdf5Writer::Hdf5Writer(const std::filesystem::path& path) : path_(path), file_(create_in_memory(path)) {}

void Hdf5Writer::put_array(const std::string& name, const Dimensions& dimensions, size_t count, int64_t memory_type,
                           int64_t file_type, const void* values,
                           const std::map<std::string, std::string>& attributes) {
  const Quiet quiet;
  const bool is_scale = dimensions.size() == 1 && dimensions[0] == name;
  if (is_scale) scales_[name] = {count, {}};
  std::vector<hsize_t> shape;
  size_t expected = 1;
  for (const std::string& dimension : dimensions) {
    CHECK(scales_.contains(dimension), "{}: {} has no dimension '{}'", path_.string(), name, dimension);
    shape.push_back(scales_[dimension].length);
    expected *= scales_[dimension].length;
  }
  CHECK(count == expected && count > 0, "{}: {} has {} values; must be {}, and some", path_.string(), name, count,
        expected);

  const Hdf5Id space(dimensions.empty() ? H5Screate(H5S_SCALAR)
                                        : H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
                     H5Sclose);
  const Hdf5Id create = property_list(H5P_DATASET_CREATE);
  H5Pset_obj_track_times(create, false);
  H5Pset_attr_creation_order(create, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
  const Hdf5Id array(
      checked(H5Dcreate2(file_, name.c_str(), file_type, space, H5P_DEFAULT, create, H5P_DEFAULT), path_, name),
      H5Dclose);
  checked(H5Dwrite(array, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), path_, name);
  for (const auto& [key, value] : attributes) put_text_attribute(array, key, value, path_);

  if (is_scale) {
    put_text_attribute(array, "CLASS", "DIMENSION_SCALE", path_);
    put_text_attribute(array, "NAME", name, path_);
    return;
  }
  for (size_t axis = 0; axis < dimensions.size(); ++axis)
    scales_[dimensions[axis]].uses.push_back({name, static_cast<int32_t>(axis)});
  if (dimensions.empty()) return;
  std::vector<hobj_ref_t> references(dimensions.size());
  std::vector<hvl_t> lists(dimensions.size());
  for (size_t axis = 0; axis < dimensions.size(); ++axis) {
    checked(H5Rcreate(&references[axis], file_, dimensions[axis].c_str(), H5R_OBJECT, -1), path_, name);
    lists[axis] = {1, &references[axis]};
  }
  const Hdf5Id list_type(H5Tvlen_create(H5T_STD_REF_OBJ), H5Tclose);
  put_attribute(array, "DIMENSION_LIST", list_type, lists.size(), lists.data(), path_);
}

void Hdf5Writer::put(const std::string& name, const Dimensions& dimensions, std::span<const double> values,
                     const std::map<std::string, std::string>& attributes) {
  put_array(name, dimensions, values.size(), H5T_NATIVE_DOUBLE, H5T_IEEE_F64LE, values.data(), attributes);
}

void Hdf5Writer::put(const std::string& name, const Dimensions& dimensions, std::span<const int64_t> values,
                     const std::map<std::string, std::string>& attributes) {
  put_array(name, dimensions, values.size(), H5T_NATIVE_INT64, H5T_STD_I64LE, values.data(), attributes);
}

void Hdf5Writer::put(const std::string& name, const Dimensions& dimensions, std::span<const std::string> values,
                     const std::map<std::string, std::string>& attributes) {
  std::vector<const char*> pointers;
  for (const std::string& value : values) pointers.push_back(value.c_str());
  const Hdf5Id type = utf8_type(H5T_VARIABLE);
  put_array(name, dimensions, values.size(), type, type, pointers.data(), attributes);
}

void Hdf5Writer::attribute(const std::string& name, const std::string& value) {
  const Quiet quiet;
  const Hdf5Id root(checked(H5Gopen2(file_, "/", H5P_DEFAULT), path_, "/"), H5Gclose);
  put_text_attribute(root, name, value, path_);
}

// The other half of a dimension scale: which arrays use it.
void Hdf5Writer::write_references() {
  struct Reference {
    hobj_ref_t array;
    int32_t axis;
  };
  const Hdf5Id type(H5Tcreate(H5T_COMPOUND, sizeof(Reference)), H5Tclose);
  H5Tinsert(type, "dataset", offsetof(Reference, array), H5T_STD_REF_OBJ);
  H5Tinsert(type, "dimension", offsetof(Reference, axis), H5T_NATIVE_INT32);
  for (const auto& [name, scale] : scales_) {
    if (scale.uses.empty()) continue;
    std::vector<Reference> references(scale.uses.size());
    std::memset(references.data(), 0, references.size() * sizeof(Reference));  // padding is written too
    for (size_t i = 0; i < scale.uses.size(); ++i) {
      references[i].axis = scale.uses[i].axis;
      checked(H5Rcreate(&references[i].array, file_, scale.uses[i].array.c_str(), H5R_OBJECT, -1), path_, name);
    }
    const Hdf5Id array(checked(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), path_, name), H5Dclose);
    put_attribute(array, "REFERENCE_LIST", type, references.size(), references.data(), path_);
  }
}

void Hdf5Writer::save() {
  const Quiet quiet;
  write_references();
  checked(H5Fflush(file_, H5F_SCOPE_GLOBAL), path_, "cannot be flushed");
  std::string image(static_cast<size_t>(checked(H5Fget_file_image(file_, nullptr, 0), path_, "has no image")), '\0');
  checked(H5Fget_file_image(file_, image.data(), image.size()), path_, "has no image");
  seal(image);
  write_file_atomically(path_, image);
}

void seal(std::string& image) { image += seal_of(image); }

Hdf5Reader::Hdf5Reader(const std::filesystem::path& path)
    : path_(path), image_(path), file_(open_image(path, checked_image(path, image_.bytes()))) {}

bool Hdf5Reader::has(const std::string& name) const {
  const Quiet quiet;
  return H5Lexists(file_, name.c_str(), H5P_DEFAULT) > 0;
}

Hdf5Id Hdf5Reader::open(const std::string& name) const {
  H5L_info_t link;
  if (H5Lget_info(file_, name.c_str(), &link, H5P_DEFAULT) < 0)
    throw bad_input("{}: no array '{}'", path_.string(), name);
  if (link.type != H5L_TYPE_HARD) throw bad_input("{}: '{}' is a link; must be an array", path_.string(), name);
  Hdf5Id array(checked(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), path_, name, Failure::bad_input), H5Dclose);
  const Hdf5Id create(checked(H5Dget_create_plist(array), path_, name, Failure::bad_input), H5Pclose);
  if (H5Pget_layout(create) != H5D_CONTIGUOUS || H5Pget_external_count(create) != 0)
    throw bad_input("{}: '{}' must be stored contiguously in this file", path_.string(), name);
  return array;
}

static std::vector<size_t> shape_of(const Hdf5Id& array) {
  const Hdf5Id space(H5Dget_space(array), H5Sclose);
  hsize_t extent[H5S_MAX_RANK];
  const int rank = H5Sget_simple_extent_dims(space, extent, nullptr);
  return {extent, extent + std::max(rank, 0)};
}

size_t Hdf5Reader::length(const std::string& name) const {
  if (!has(name)) return 0;
  const Quiet quiet;
  const Hdf5Id array = open(name);
  const std::vector<size_t> shape = shape_of(array);
  if (shape.size() != 1)
    throw bad_input("{}: '{}' is {}; must have one dimension", path_.string(), name, shape_text(shape));
  if (shape[0] > image_.bytes().size() / sizeof(double))
    throw bad_input("{}: '{}' claims {} values, more than the file's {} bytes hold", path_.string(), name, shape[0],
                    image_.bytes().size());
  return shape[0];
}

std::string_view Hdf5Reader::bytes_at(const std::string& name, uint64_t at, uint64_t count) const {
  const std::string_view all = image_.bytes();
  if (at > all.size() || count > all.size() - at)
    throw bad_input("{}: '{}' has {} bytes at {}, beyond the file's {}", path_.string(), name, count, at, all.size());
  return all.substr(at, count);
}

std::string_view Hdf5Reader::values_of(const std::string& name, const std::vector<size_t>& shape, int64_t type) const {
  const Quiet quiet;
  const Hdf5Id array = open(name), stored(H5Dget_type(array), H5Tclose);
  if (shape_of(array) != shape)
    throw bad_input("{}: '{}' is {}; must be {}", path_.string(), name, shape_text(shape_of(array)), shape_text(shape));
  if (type == kText ? H5Tis_variable_str(stored) <= 0 : H5Tequal(stored, type) <= 0)
    throw bad_input("{}: '{}' has another type than f64, i64 or UTF-8 text, as its place asks", path_.string(), name);
  uint64_t bytes = type == kText ? kTextReferenceBytes : sizeof(double);
  bool overflows = false;
  for (const size_t n : shape) overflows |= __builtin_mul_overflow(bytes, n, &bytes);
  if (overflows || H5Dget_storage_size(array) != bytes)
    throw bad_input("{}: '{}' is not stored whole", path_.string(), name);
  return bytes_at(name, H5Dget_offset(array), bytes);
}

template <class T>
static T number_at(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.substr(at, sizeof value).data(), sizeof value);
  return value;
}

// `reference`: length of the text (4 bytes), and where its bytes are: address of a global heap (8) and index of an
// object in it (4). The heap is a header of 16 bytes and objects, each of them a header (index: 2 bytes; size: 8, at 8)
// and its bytes, to the next multiple of 8 (HDF5 File Format Specification 3.0, sections III.E and IV.A.2.d). HDF5 1.10
// follows damaged references out of its memory or forever.
std::string_view Hdf5Reader::text_at(const std::string& name, std::string_view reference) const {
  const auto length = number_at<uint32_t>(reference, 0), index = number_at<uint32_t>(reference, 12);
  if (length == 0) return {};
  uint64_t at = number_at<uint64_t>(reference, 4);
  if (!bytes_at(name, at, kHeapHeaderBytes).starts_with("GCOL"))
    throw bad_input("{}: '{}' has a text at {}, where none are", path_.string(), name, at);
  for (at += kHeapHeaderBytes;;) {
    const std::string_view header = bytes_at(name, at, kHeapHeaderBytes);
    const auto found = number_at<uint16_t>(header, 0);
    const auto bytes = number_at<uint64_t>(header, 8);
    at += kHeapHeaderBytes;
    if (found == index && length <= bytes) return bytes_at(name, at, length);
    if (found == 0 || bytes > image_.bytes().size())  // 0: the heap's end
      throw bad_input("{}: '{}' has no text {} where one should be", path_.string(), name, index);
    at += (bytes + 7) / 8 * 8;
  }
}

template <class T>
static std::vector<T> numbers(std::string_view bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<double> Hdf5Reader::doubles(const std::string& name, const std::vector<size_t>& shape) const {
  return numbers<double>(values_of(name, shape, H5T_IEEE_F64LE));
}

std::vector<int64_t> Hdf5Reader::integers(const std::string& name, const std::vector<size_t>& shape) const {
  return numbers<int64_t>(values_of(name, shape, H5T_STD_I64LE));
}

std::vector<std::string> Hdf5Reader::strings(const std::string& name, const std::vector<size_t>& shape) const {
  std::string_view references = values_of(name, shape, kText);
  std::vector<std::string> values;
  for (size_t bytes = 0; !references.empty(); references.remove_prefix(kTextReferenceBytes)) {
    values.emplace_back(text_at(name, references));
    if ((bytes += values.back().size()) > image_.bytes().size())
      throw bad_input("{}: '{}' has more bytes of text than the file", path_.string(), name);
  }
  return values;
}

std::map<std::string, std::string> Hdf5Reader::attributes() const {
  const Quiet quiet;
  std::map<std::string, std::string> found;
  H5O_info_t info;
  checked(H5Oget_info2(file_, &info, H5O_INFO_NUM_ATTRS), path_, "attributes", Failure::bad_input);
  for (hsize_t i = 0; i < info.num_attrs; ++i) {
    const Hdf5Id attribute(checked(H5Aopen_by_idx(file_, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT),
                                   path_, "attributes", Failure::bad_input),
                           H5Aclose);
    const Hdf5Id type(H5Aget_type(attribute), H5Tclose), space(H5Aget_space(attribute), H5Sclose);
    const size_t bytes = H5Tget_size(type);
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0 ||
        H5Sget_simple_extent_type(space) != H5S_SCALAR || bytes > image_.bytes().size())
      continue;
    std::string name(static_cast<size_t>(std::max<ssize_t>(H5Aget_name(attribute, 0, nullptr), 0)), '\0');
    H5Aget_name(attribute, name.size() + 1, name.data());
    std::string value(bytes, '\0');
    checked(H5Aread(attribute, type, value.data()), path_, name, Failure::bad_input);
    while (!value.empty() && value.back() == '\0') value.pop_back();
    found[name] = value;
  }
  return found;
}

}  // namespace tangram
